// From PVH's 32-bit entry to C in long mode; also the way other CPUs come up, interrupt stubs, and ring 3.
// FIRST_BYTE (firstbyte.c) makes the very first instructions write to COM1.

#define KERNEL32 0x08
#define KERNEL64 0x10
#define KERNEL_DATA 0x18
#define USER64 0x23
#define USER_DATA 0x2b
#define TSS 0x30

  .section .note.pvh, "a"
  .align 4
  .long 4, 4, 18            // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .long pvh_start

  .section .text.entry, "ax"
  .code32
  .globl pvh_start, boot_stack_top
pvh_start:
#ifdef FIRST_BYTE
  mov $0x3f8, %dx
  mov $'!', %al
  out %al, %dx
#endif
  cld
  mov %ebx, %esi            // hvm_start_info
  xor %edi, %edi            // boot CPU
long_mode:
  lgdt gdt_pointer
  ljmp $KERNEL32, $1f
1:
  mov $KERNEL_DATA, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  mov %cr4, %eax
  or $0x620, %eax           // PAE, OSFXSR, OSXMMEXCPT: ring 3 uses SSE
  mov %eax, %cr4
  mov $pml4, %eax
  mov %eax, %cr3
  mov $0xc0000080, %ecx     // EFER.LME
  rdmsr
  or $0x100, %eax
  wrmsr
  mov %cr0, %eax
  and $~0x4, %eax           // no EM
  or $0x80000023, %eax      // PG, NE, MP, PE
  mov %eax, %cr0
  ljmp $KERNEL64, $in_long_mode

  .code64
in_long_mode:
  test %edi, %edi
  jnz application_cpu
  mov $boot_stack_top, %esp
  mov %esi, %edi
  call runtime_main
1:
  cli
  hlt
  jmp 1b

application_cpu:
  mov $1, %eax
  lock xadd %eax, ap_tickets(%rip)
  inc %eax
  shl $10, %eax             // 1 KiB of stack each: they run with interrupts off
  lea ap_stacks(%rip), %rsp
  add %rax, %rsp
  call ap_main
1:
  cli
  hlt
  jmp 1b

// Copied to 0x8000, where a STARTUP IPI with vector 8 begins.
  .code16
  .globl ap_trampoline, ap_trampoline_end
ap_trampoline:
  cli
  cld
  xor %ax, %ax
  mov %ax, %ds
  lgdtl 0x8000 + (ap_gdt_pointer - ap_trampoline)
  mov %cr0, %eax
  or $1, %eax
  mov %eax, %cr0
  ljmpl $KERNEL32, $1f
ap_gdt_pointer:
  .word gdt_end - gdt - 1
  .long gdt
ap_trampoline_end:
  .code32
1:
  mov $KERNEL_DATA, %eax    // real mode's segments end at 64 KiB
  mov %eax, %ds
  mov $1, %edi
  jmp long_mode

// Interrupts: every stub pushes a zero where the CPU pushes no error code, then the vector.
  .code64
  .text
  .align 16
  .globl interrupt_stubs
interrupt_stubs:
  .set vector, 0
  .rept 64
    .align 16
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17)
    .else
      push $0
    .endif
    push $vector
    jmp interrupt_common
    .set vector, vector + 1
  .endr

interrupt_common:
  push %rax; push %rcx; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %r11
  cld
  mov %rsp, %rdi
  call runtime_interrupt
  pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax
  add $16, %rsp
  iretq

// u64 run_user(u64 (*function)(u64), u64 argument) calls function in ring 3, with this moment's interrupt flag.
// u64 call_kernel(u64 (*function)(u64), u64 argument) is its opposite, for ring 3. Both ways back into ring 0 are
// #UD, because `syscall` and `int n` do not arrive everywhere; ud2 does. Ports are ring 0's: IOPL is not honoured
// everywhere either.
  .globl run_user, call_kernel, user_trap
run_user:
  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
  pushfq
  mov (%rsp), %rax
  mov %rsp, saved_stack(%rip)
  push $USER_DATA
  lea user_stack_top(%rip), %rcx
  push %rcx
  push %rax
  push $USER64
  lea 1f(%rip), %rcx
  push %rcx
  iretq
1:
  mov %rdi, %rax
  mov %rsi, %rdi
  call *%rax
  lea leave_user(%rip), %rdi
  mov %rax, %rsi
call_kernel:
user_trap:
  ud2
  ret

leave_user:                 // in ring 0, on the interrupt stack: back to run_user's caller
  mov %rdi, %rax
  mov $KERNEL_DATA, %ecx    // coming from ring 3 left SS empty
  mov %ecx, %ss
  mov saved_stack(%rip), %rsp
  popfq
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
  ret

  .data
  .align 8
  .globl gdt, task_state
gdt:
  .quad 0
  .quad 0x00cf9b000000ffff  // KERNEL32
  .quad 0x00af9b000000ffff  // KERNEL64
  .quad 0x00cf93000000ffff  // KERNEL_DATA
  .quad 0x00affb000000ffff  // USER64
  .quad 0x00cff3000000ffff  // USER_DATA
  .quad 0, 0                // TSS, by the runtime
gdt_end:
gdt_pointer:
  .word gdt_end - gdt - 1
  .quad gdt
  .align 8
task_state:
  .long 0
  .quad interrupt_stack_top // RSP0
  .fill 90, 1, 0
  .word 104                 // no I/O bitmap: IOPL decides
task_state_end:

// The first 4 GiB one to one, in 2 MiB pages that ring 3 may use too: ready in the file, because filling 2048
// entries takes milliseconds where ring 0 is emulated. The runtime adds what lies above.
  .align 4096
  .globl pml4, page_directory_pointers
pml4:
  .quad page_directory_pointers + 7
  .fill 511, 8, 0
page_directory_pointers:
  .quad page_directories + 0x0007, page_directories + 0x1007
  .quad page_directories + 0x2007, page_directories + 0x3007
  .fill 508, 8, 0
page_directories:
  .set page, 0
  .rept 2048
    .quad page + 0xe7       // present, writable, user, accessed, dirty, 2 MiB
    .set page, page + 0x200000
  .endr

  .bss
  .align 16
  .fill 8192
boot_stack_top:
  .fill 4096
interrupt_stack_top:
  .fill 4096
user_stack_top:
ap_stacks:
  .fill 256 * 1024
saved_stack: .quad 0
ap_tickets: .long 0
