"""Runs a program where the kernel refuses io_uring, as containers do: without_io_uring.py PROGRAM ARGUMENT…"""
import ctypes
import errno
import os
import struct
import sys

IO_URING_SETUP = 425
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: of a 32-bit word, against a constant, with a constant
ALLOW, ERROR = 0x7FFF0000, 0x00050000

FILTER = [(LOAD, 0, 0, 0),  # seccomp_data.nr
          (JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
          (RETURN, 0, 0, ERROR | errno.EPERM),
          (RETURN, 0, 0, ALLOW)]


def main():
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in FILTER))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(FILTER), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)):
        if prctl(*arguments) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    os.execv(sys.argv[1], sys.argv[1:])


main()
