// What makes a bare-metal guest a bzImage (Linux' Documentation/arch/x86/boot.rst, "The Real-mode Kernel Header"):
// the setup header, and the 64-bit entry that finds a zero page where PVH's finds a hvm_start_info.

  .section .header, "a"
  .org 0x1f1
  .byte 1                   // setup_sects: this sector and one more
  .word 0                   // root_flags
  .long bz_paragraphs       // syssize
  .word 0, 0, 0             // ram_size, vid_mode, root_dev
  .word 0xaa55              // boot_flag
  .byte 0xeb, header_end - 1f
1:
  .ascii "HdrS"
  .word 0x020f              // version 2.15
  .long 0                   // realmode_swtch
  .word 0, 0                // start_sys_seg, kernel_version
  .byte 0                   // type_of_loader
  .byte 1                   // loadflags: LOADED_HIGH
  .word 0                   // setup_move_size
  .long 0x100000            // code32_start
  .long 0, 0                // ramdisk_image, ramdisk_size
  .long 0                   // bootsect_kludge
  .word 0                   // heap_end_ptr
  .byte 0, 0                // ext_loader_ver, ext_loader_type
  .long 0                   // cmd_line_ptr
  .long 0x7fffffff          // initrd_addr_max
  .long 0x200000            // kernel_alignment
  .byte 0, 21               // not relocatable, min_alignment
  .word 3                   // xloadflags: XLF_KERNEL_64, XLF_CAN_BE_LOADED_ABOVE_4G
  .long 2047                // cmdline_size
  .long 0                   // hardware_subarch
  .quad 0                   // hardware_subarch_data
  .long 0, 0                // payload_offset, payload_length: no compressed kernel in here
  .quad 0                   // setup_data
  .quad bz_start            // pref_address
  .long bz_memory           // init_size
  .long 0, 0                // handover_offset, kernel_info_offset
header_end:

  .section .text.bzimage, "ax"
  .code32
  ud2                       // the 32-bit entry: a loader that takes it has not read xloadflags
  .org 0x200
  .code64
  cld
  lgdt bz_gdt_pointer(%rip)
  mov $boot_stack_top, %esp
  mov %rsi, %rdi
  mov %cr3, %rsi
  mov $pml4, %eax
  mov %rax, %cr3
  xor %edx, %edx
  mov %cs, %dx
  call zero_page_main
  ud2

bz_gdt_pointer:
  .word 63
  .quad gdt
