/* SPDX-License-Identifier: MIT */
/*
 * probe.S: a guest that finds out whether an accelerator can run an operating system's kernel.
 *
 * Purpose: on some hosts (virtual machines themselves, mostly) /dev/kvm is there and a few instructions run,
 * but privileged code is emulated at a crawl and some instructions are missing. This guest does, with a check
 * of each result, what kernels do, and tells how far it got.
 *
 * Data: the guest is bytes in the read-only data of whoever links this file, from cop_probe_guest to
 * cop_probe_guest_end. The host puts them at the start of a 64 KiB ROM with a jump at its reset vector
 * (src/daemon/accel.c), so that no firmware is run. All addresses are computed from differences of labels:
 * there are no relocations, and the bytes are the same wherever they are linked.
 *
 * Order: real mode in the ROM -> protected mode, copy to RAM -> long mode -> the steps -> exit.
 *
 * Output: port 0xe9 gets a letter when a step begins ("A" to "J"; table in accel.c), then "Z" when all passed,
 * "?" when a result was wrong, or "!" and two hexadecimal digits for an exception that nobody asked for.
 * Port 0xf4 ends the VM with PASS or FAIL.
 *
 * Memory:	0x1000 PML4	0x2000 PDPT	0x3000 page directory	0x5000 IDT
 *		0x6000 operand of cmpxchg16b	0x6100 TSS	0x7000 XSAVE area
 *		0x9000 user stack (down)	0xa000 kernel stack (down)	0x10000 this code
 */
#define BASE  0x10000
#define ROM   0xffff0000
#define LOW(label)     (BASE + (label) - cop_probe_guest)
#define IN_ROM(label)  (ROM + (label) - cop_probe_guest)

#define PORT_REPORT 0xe9
#define PORT_EXIT   0xf4
#define PASS 0x2a
#define FAIL 0x15

#define PML4   0x1000
#define PDPT   0x2000
#define PDIR   0x3000
#define IDT    0x5000
#define WORD16 0x6000
#define TSS    0x6100
#define XAREA  0x7000
#define USER_STACK   0x9000
#define KERNEL_STACK 0xa000
#define UNMAPPED     0x40000000

/* Selectors. SYSCALL wants KERNEL_DATA after KERNEL_CODE, SYSRET USER_CODE after USER_DATA. */
#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_BASE   0x18
#define USER_DATA   0x20
#define USER_CODE   0x28
#define CODE32      0x30
#define TSS_SEL     0x38

#define MSR_EFER    0xc0000080
#define MSR_STAR    0xc0000081
#define MSR_LSTAR   0xc0000082
#define MSR_SFMASK  0xc0000084
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

#define LOOPS 10000000 /* of three instructions */

.macro report letter
	movb $\letter, %al
	outb %al, $PORT_REPORT
.endm

.macro write_msr msr, high, low
	movl $\msr, %ecx
	movl $\high, %edx
	movl $\low, %eax
	wrmsr
.endm

	.section .rodata.cop_probe_guest, "a", @progbits
	.balign 16
	.globl cop_probe_guest
	.hidden cop_probe_guest
cop_probe_guest:

/* ---- A: real mode, at f000:0000 in the ROM ---- */
	.code16
	cli
	cld
	report 'A'
	lgdtl %cs:(rom_gdtr - cop_probe_guest)
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $CODE32, $IN_ROM(protected_mode)

/* ---- B: protected mode; copy to RAM, page tables, long mode ---- */
	.code32
protected_mode:
	movw $KERNEL_DATA, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	report 'B'
	movl $ROM, %esi
	movl $BASE, %edi
	movl $(cop_probe_guest_end - cop_probe_guest), %ecx
	rep movsb
	xorl %eax, %eax
	movl $PML4, %edi
	movl $((USER_STACK - PML4) / 4), %ecx
	rep stosl
	movl $KERNEL_STACK, %esp
	movl $LOW(in_ram), %eax
	jmp *%eax
in_ram:
	movl $(PDPT + 7), PML4 /* present, writable, user */
	movl $(PDIR + 7), PDPT
	movl $0x87, PDIR /* the first 2 MiB, where everything is */
	movl %cr4, %eax
	orl $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
	movl %eax, %cr4
	movl $PML4, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	orl $0x101, %eax /* long mode, SYSCALL */
	wrmsr
	movl %cr0, %eax
	andl $0x9ffffff3, %eax /* not: CD, NW, TS, EM */
	orl $0x80010022, %eax  /* PG, WP, NE, MP */
	movl %eax, %cr0
	lgdt LOW(ram_gdtr)
	ljmp $KERNEL_CODE, $LOW(long_mode)

/* ---- C: long mode; interrupt table ---- */
	.code64
long_mode:
	movl $KERNEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $KERNEL_STACK, %esp
	report 'C'
	movl $IDT, %edi
	movl $LOW(stubs), %ebx
	movl $32, %ecx
1:	call set_gate
	addl $(stub_1 - stub_0), %ebx
	addl $16, %edi
	decl %ecx
	jnz 1b
	movl $(IDT + 16 * 0x80), %edi
	movl $LOW(from_int80), %ebx
	call set_gate
	movb $0xee, 5(%rdi) /* users may */
	lidt LOW(idtr)

/* ---- D: int3 and return ---- */
	report 'D'
	movq $3, %r15 /* the exception to expect */
	xorl %r14d, %r14d /* nothing to skip */
	int3
	cmpq $-1, %r15
	jne wrong

/* ---- E: page fault, with its address, and return past it ---- */
	report 'E'
	movq $14, %r15
	movq $(2f - 1f), %r14
1:	movb $0, UNMAPPED
2:	cmpq $-1, %r15
	jne wrong
	movq %cr2, %rax
	cmpq $UNMAPPED, %rax
	jne wrong

/* ---- F: cmpxchg16b, if there is one ---- */
	movl $1, %eax
	cpuid
	movl %ecx, %ebp /* features, for later steps too */
	report 'F'
	btl $13, %ebp
	jnc 1f
	movl $WORD16, %edi
	movq $0x1111, (%rdi)
	movq $0x2222, 8(%rdi)
	movl $0x1111, %eax
	movl $0x2222, %edx
	movl $0x3333, %ebx
	movl $0x4444, %ecx
	lock cmpxchg16b (%rdi)
	jnz wrong
	cmpq $0x3333, (%rdi)
	jne wrong
	cmpq $0x4444, 8(%rdi)
	jne wrong
	movl $0x1111, %eax /* not what is there now */
	lock cmpxchg16b (%rdi)
	jz wrong
	cmpq $0x3333, %rax
	jne wrong
	cmpq $0x4444, %rdx
	jne wrong
1:

/* ---- G: xsave and xrstor, or fxsave and fxrstor ---- */
	report 'G'
	movl $XAREA, %edi
	movq $0x0123456789abcdef, %rsi
	movq %rsi, %xmm0
	btl $26, %ebp
	jnc 1f
	movq %cr4, %rax
	orl $0x40000, %eax /* OSXSAVE */
	movq %rax, %cr4
	xorl %ecx, %ecx
	xorl %edx, %edx
	movl $3, %eax /* x87 and SSE */
	xsetbv
	xgetbv
	andl $3, %eax
	cmpl $3, %eax
	jne wrong
	xorl %edx, %edx
	xsave64 (%rdi)
	pxor %xmm0, %xmm0
	xrstor64 (%rdi)
	jmp 2f
1:	fxsave64 (%rdi)
	pxor %xmm0, %xmm0
	fxrstor64 (%rdi)
2:	movq %xmm0, %rax
	cmpq %rsi, %rax
	jne wrong

/* ---- H: model-specific registers, swapgs ---- */
	report 'H'
	write_msr MSR_KERNEL_GS_BASE, 0x00001234, 0x56789abc
	xorl %eax, %eax
	xorl %edx, %edx
	rdmsr
	cmpl $0x56789abc, %eax
	jne wrong
	cmpl $0x1234, %edx
	jne wrong
	swapgs
	movl $MSR_GS_BASE, %ecx
	rdmsr
	cmpl $0x56789abc, %eax
	jne wrong
	swapgs

/* ---- I: to user mode, back by syscall, there by sysret, back by int ---- */
	report 'I'
	movq $KERNEL_STACK, TSS + 4
	movl $TSS_SEL, %eax
	ltr %ax
	write_msr MSR_STAR, (USER_BASE << 16 | KERNEL_CODE), 0
	write_msr MSR_LSTAR, 0, LOW(from_syscall)
	write_msr MSR_SFMASK, 0, 0x47700
	pushq $(USER_DATA | 3)
	pushq $USER_STACK
	pushq $2
	pushq $(USER_CODE | 3)
	pushq $LOW(user)
	iretq

user:
	movl $0x5555, %r13d
	syscall
	cmpl $0xaaaa, %r13d
	jne 1f
	movl $0x7777, %r13d
1:	movl %cs, %r12d
	int $0x80

from_syscall:
	cmpl $0x5555, %r13d
	jne wrong
	movl $0xaaaa, %r13d
	sysretq

from_int80:
	cmpl $0x7777, %r13d
	jne wrong
	cmpl $(USER_CODE | 3), %r12d
	jne wrong
	cmpq $(USER_CODE | 3), 8(%rsp)
	jne wrong
	movl $KERNEL_STACK, %esp

/* ---- J: much kernel-mode code, timed by the host ---- */
	report 'J'
	xorl %ebx, %ebx
	movl $LOOPS, %ecx
1:	addq $3, %rbx
	decl %ecx
	jnz 1b
	cmpq $(3 * LOOPS), %rbx
	jne wrong

	report 'Z'
	movb $PASS, %al
	jmp leave

wrong:
	report '?'
fail:
	movb $FAIL, %al
leave:
	outb %al, $PORT_EXIT
1:	hlt
	jmp 1b

/* Gate %edi (in the zeroed IDT) leads to %ebx. Changes %eax. */
set_gate:
	movl %ebx, %eax
	movw %ax, (%rdi)
	movw $KERNEL_CODE, 2(%rdi)
	movw $0x8e00, 4(%rdi)
	shrl $16, %eax
	movw %ax, 6(%rdi)
	ret

/* One stub an exception, all of one size: push 0 where the CPU pushes no error code, then the number. */
	.balign 16
stubs:
	.set vector, 0
	.rept 32
	.if vector == 0
stub_0:
	.elseif vector == 1
stub_1:
	.endif
	.if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || \
	      (vector == 29) || (vector == 30))
	pushq $0
	.endif
	pushq $vector
	jmp exception
	.balign 16
	.set vector, vector + 1
	.endr

/* Was it expected (%r15)? Then note that, skip %r14 bytes of code and go on. */
exception:
	cmpq %r15, (%rsp)
	jne 1f
	movq $-1, %r15
	addq %r14, 16(%rsp)
	addq $16, %rsp
	iretq
1:	report '!'
	movl (%rsp), %eax
	shrl $4, %eax
	call report_digit
	movl (%rsp), %eax
	call report_digit
	jmp fail

report_digit:
	andl $15, %eax
	addb $'0', %al
	cmpb $'9', %al
	jbe 1f
	addb $('a' - '9' - 1), %al
1:	outb %al, $PORT_REPORT
	ret

	.balign 8
gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* 08 kernel code, 64 bits */
	.quad 0x00cf93000000ffff /* 10 kernel data */
	.quad 0
	.quad 0x00cff3000000ffff /* 20 user data */
	.quad 0x00affb000000ffff /* 28 user code, 64 bits */
	.quad 0x00cf9b000000ffff /* 30 kernel code, 32 bits */
	.quad 0x0000890000000067 | TSS << 16 /* 38 TSS, 16 bytes */
	.quad 0
gdt_end:
rom_gdtr:
	.word gdt_end - gdt - 1
	.long IN_ROM(gdt)
ram_gdtr:
	.word gdt_end - gdt - 1
	.quad LOW(gdt)
idtr:
	.word 16 * 0x81 - 1
	.quad IDT

	.globl cop_probe_guest_end
	.hidden cop_probe_guest_end
cop_probe_guest_end:

	.section .note.GNU-stack, "", @progbits
