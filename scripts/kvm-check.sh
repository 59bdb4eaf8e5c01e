#!/usr/bin/env bash
# Can this user run virtual machines here? Quiet and 0 if so, else says what is missing and what to do.
if [ ! -e /dev/kvm ]; then
  cat >&2 <<'END'
There is no /dev/kvm, so no virtual machine can run here.
  On real hardware: switch on VT-x or AMD-V in the firmware set-up, then `sudo modprobe kvm_intel` (or kvm_amd).
  In a virtual machine: let its host offer nested virtualization.
  In a container: start it with --device /dev/kvm.
END
  exit 1
fi
if ! (exec 3<>/dev/kvm) 2>/dev/null; then
  cat >&2 <<END
/dev/kvm is there, but $(id -un) may not open it.
  Join its group, then log in again: sudo usermod -aG $(stat -c %G /dev/kvm) $(id -un)
END
  exit 1
fi
