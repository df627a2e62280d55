/*
 * kvm-touch.c - see kvm-touch.h.
 *
 * Guest memory: the region at 0; at 1 GiB page tables and the program. All is mapped as it is, for
 * user mode, by 2 MiB pages. Source: Documentation/virt/kvm/api.rst.
 */
#include "kvm-touch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define BASE	  0x40000000ull
#define OWN_BYTES (2u << 20)
#define PDPT	  0x1000
#define PD_LOW	  0x2000
#define PD_BASE	  0x3000
#define PROGRAM	  0x4000
#define TSS	  0x8000 /* zeros: its map lets every port be used */

extern const char kvm_touch_program[], kvm_touch_program_end[];

/* rdi: the first page, rcx: how many. r8, r9: its clock before and after. */
__asm__(".pushsection .rodata\n"
	"kvm_touch_program:\n"
	"	rdtsc\n"
	"	shl $32, %rdx\n"
	"	or %rdx, %rax\n"
	"	mov %rax, %r8\n"
	"	lfence\n"
	"1:	mov (%rdi), %al\n"
	"	add $4096, %rdi\n"
	"	dec %rcx\n"
	"	jnz 1b\n"
	"	lfence\n"
	"	rdtsc\n"
	"	shl $32, %rdx\n"
	"	or %rdx, %rax\n"
	"	mov %rax, %r9\n"
	"2:	out %al, $0x10\n" /* as IOPL 3 allows */
	"	jmp 2b\n"
	"kvm_touch_program_end:\n"
	".popsection\n");

struct kvm_touch {
	int kvm, vm, cpu;
	uint8_t *own;
	struct kvm_run *run;
	size_t run_bytes;
};

static int add_memory(const struct kvm_touch *t, uint32_t slot, uint64_t at, void *memory,
		      size_t len)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = at,
		.memory_size = len,
		.userspace_addr = (uintptr_t)memory,
	};

	return ioctl(t->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

static void make_own(uint8_t *own)
{
	uint64_t *pml4 = (uint64_t *)own, *pdpt = (uint64_t *)(own + PDPT);
	uint64_t *low = (uint64_t *)(own + PD_LOW), *base = (uint64_t *)(own + PD_BASE);
	const uint64_t flags = 7, large = 0x80; /* present, writable, user */

	pml4[0] = (BASE + PDPT) | flags;
	pdpt[0] = (BASE + PD_LOW) | flags;
	pdpt[1] = (BASE + PD_BASE) | flags;
	for (uint64_t i = 0; i < 512; i++)
		low[i] = i << 21 | large | flags;
	base[0] = BASE | large | flags;
	memcpy(own + PROGRAM, kvm_touch_program,
	       (size_t)(kvm_touch_program_end - kvm_touch_program));
}

static int set_mode(const struct kvm_touch *t)
{
	const struct kvm_segment code = {.limit = 0xffffffff,
					 .selector = 0x33,
					 .type = 11,
					 .present = 1,
					 .dpl = 3,
					 .s = 1,
					 .l = 1,
					 .g = 1};
	const struct kvm_segment data = {.limit = 0xffffffff,
					 .selector = 0x2b,
					 .type = 3,
					 .present = 1,
					 .dpl = 3,
					 .db = 1,
					 .s = 1,
					 .g = 1};
	struct kvm_sregs s;

	if (ioctl(t->cpu, KVM_GET_SREGS, &s) < 0)
		return -errno;
	s.cr0 = 0x80050033;
	s.cr3 = BASE;
	s.cr4 = 0x20;
	s.efer = 0x500;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.tr.base = BASE + TSS; /* KVM within KVM looks there whatever IOPL says */
	s.tr.limit = 0x2fff;
	return ioctl(t->cpu, KVM_SET_SREGS, &s) < 0 ? -errno : 0;
}

static int set_up(struct kvm_touch *t, void *region, size_t len)
{
	void *own, *run;
	int r;

	t->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (t->kvm < 0)
		return -errno;
	own = mmap(NULL, OWN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (own == MAP_FAILED)
		return -errno;
	t->own = own;
	make_own(own);
	t->vm = ioctl(t->kvm, KVM_CREATE_VM, 0);
	if (t->vm < 0)
		return -errno;
	(void)ioctl(t->vm, KVM_SET_TSS_ADDR, 0xfffbd000ul); /* where it is not needed it may fail */
	r = add_memory(t, 0, 0, region, len);
	if (r == 0)
		r = add_memory(t, 1, BASE, own, OWN_BYTES);
	if (r)
		return r;
	t->cpu = ioctl(t->vm, KVM_CREATE_VCPU, 0);
	if (t->cpu < 0)
		return -errno;
	t->run_bytes = (size_t)ioctl(t->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, t->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, t->cpu, 0);
	if (run == MAP_FAILED)
		return -errno;
	t->run = run;
	return set_mode(t);
}

int kvm_touch_new(void *region, size_t len, struct kvm_touch **ret)
{
	struct kvm_touch *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return -ENOMEM;
	t->kvm = t->vm = t->cpu = -1;
	r = set_up(t, region, len);
	if (r) {
		kvm_touch_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

int kvm_touch_pages(struct kvm_touch *t, uint64_t offset, uint32_t nr, uint64_t *ret_ticks)
{
	struct kvm_regs regs = {
		.rip = BASE + PROGRAM,
		.rflags = 0x3002, /* IOPL 3 */
		.rsp = BASE + OWN_BYTES,
		.rdi = offset,
		.rcx = nr,
	};

	/* An instruction whose exit was not followed by another entry is not over: end it first. */
	if (t->run->exit_reason == KVM_EXIT_IO) {
		t->run->immediate_exit = 1;
		(void)ioctl(t->cpu, KVM_RUN, 0); /* EINTR, as asked for */
		t->run->immediate_exit = 0;
	}
	if (ioctl(t->cpu, KVM_SET_REGS, &regs) < 0)
		return -errno;
	while (ioctl(t->cpu, KVM_RUN, 0) < 0) {
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
	if (t->run->exit_reason != KVM_EXIT_IO)
		return -EPROTO;
	if (ioctl(t->cpu, KVM_GET_REGS, &regs) < 0)
		return -errno;
	*ret_ticks = regs.r9 - regs.r8;
	return 0;
}

void kvm_touch_free(struct kvm_touch *t)
{
	if (t->run)
		munmap(t->run, t->run_bytes);
	if (t->own)
		munmap(t->own, OWN_BYTES);
	if (t->cpu >= 0)
		close(t->cpu);
	if (t->vm >= 0)
		close(t->vm);
	if (t->kvm >= 0)
		close(t->kvm);
	free(t);
}
