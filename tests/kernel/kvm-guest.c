/*
 * kvm-guest.c - see kvm-guest.h.
 *
 * Guest memory: the region at 0, then at 1 GiB a megabyte with page tables, the program and its table
 * of words, all mapped as they are for user mode by 2 MiB pages. Reports by OUT, which IOPL 3 allows.
 */
#include "kvm-guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define BASE	   0x40000000ull /* of its own memory */
#define OWN_BYTES  (2u << 20)
#define PDPT	   0x1000
#define PD_LOW	   0x2000
#define PD_BASE	   0x3000
#define PROGRAM	   0x4000
#define ZEROS	   0x8000
#define WORDS	   0x10000
#define PORT_ALIVE 0x10
#define PORT_WRONG 0x11

extern const char kvm_guest_program[], kvm_guest_program_end[];

__asm__(".pushsection .rodata\n"
	".global kvm_guest_program\n"
	"kvm_guest_program:\n"
	"1:	movabs $6364136223846793005, %rax\n"
	"	imul %rax, %r13\n"
	"	movabs $1442695040888963407, %rax\n"
	"	add %rax, %r13\n"
	"	mov %r13, %rcx\n"
	"	shr $33, %rcx\n"
	"	and %r12, %rcx\n" /* a page */
	"	mov %rcx, %rdi\n"
	"	shl $12, %rdi\n"
	"	add %rbx, %rdi\n"
	"	mov %rcx, %rdx\n"
	"	shl $5, %rdx\n"
	"	add %rsi, %rdx\n" /* its words */
	"	mov (%rdi), %rax\n"
	"	cmp (%rdx), %rax\n"
	"	jne 3f\n"
	"	mov 1024(%rdi), %rax\n"
	"	cmp 8(%rdx), %rax\n"
	"	jne 3f\n"
	"	mov 2048(%rdi), %rax\n"
	"	cmp 16(%rdx), %rax\n"
	"	jne 3f\n"
	"	mov 4088(%rdi), %rax\n"
	"	cmp 24(%rdx), %rax\n"
	"	jne 3f\n"
	"	bt $40, %r13\n"
	"	jnc 2f\n"
	"	movabs $0x9e3779b97f4a7c15, %rax\n"
	"	add %rax, (%rdx)\n"
	"	add %rax, 8(%rdx)\n"
	"	add %rax, 16(%rdx)\n"
	"	add %rax, 24(%rdx)\n"
	"	add %rax, (%rdi)\n"
	"	add %rax, 1024(%rdi)\n"
	"	add %rax, 2048(%rdi)\n"
	"	add %rax, 4088(%rdi)\n"
	"2:	inc %r14\n"
	"	test $0xfff, %r14\n"
	"	jnz 1b\n"
	"	out %al, $0x10\n"
	"	jmp 1b\n"
	"3:	out %al, $0x11\n"
	"	jmp 3b\n"
	".global kvm_guest_program_end\n"
	"kvm_guest_program_end:\n"
	".popsection\n");

struct machine {
	int kvm, vm, cpu;
	uint8_t *own;
	struct kvm_run *run;
	size_t run_bytes;
};

static int set_memory(const struct machine *m, uint32_t slot, uint64_t at, void *memory, size_t len)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = at,
		.memory_size = len,
		.userspace_addr = (uintptr_t)memory,
	};

	return ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

static void make_tables(uint8_t *own)
{
	uint64_t *pml4 = (uint64_t *)own, *pdpt = (uint64_t *)(own + PDPT);
	uint64_t *low = (uint64_t *)(own + PD_LOW), *base = (uint64_t *)(own + PD_BASE);
	const uint64_t flags = 7; /* present, writable, user */

	pml4[0] = (BASE + PDPT) | flags;
	pdpt[0] = (BASE + PD_LOW) | flags;
	pdpt[1] = (BASE + PD_BASE) | flags;
	for (uint64_t i = 0; i < 512; i++)
		low[i] = i << 21 | 0x80 | flags;
	base[0] = BASE | 0x80 | flags;
}

static int set_registers(const struct machine *m, uint32_t nr_pages)
{
	const struct kvm_segment code = {.limit = 0xffffffff, .selector = 0x33, .type = 11, .present = 1,
					 .dpl = 3, .s = 1, .l = 1, .g = 1};
	const struct kvm_segment data = {.limit = 0xffffffff, .selector = 0x2b, .type = 3, .present = 1,
					 .dpl = 3, .db = 1, .s = 1, .g = 1};
	struct kvm_regs regs = {
		.rip = BASE + PROGRAM,
		.rflags = 0x3002, /* IOPL 3 */
		.rbx = 0,
		.rsi = BASE + WORDS,
		.r12 = nr_pages - 1,
		.r13 = 42,
		.rsp = BASE + OWN_BYTES,
	};
	struct kvm_sregs sregs;

	if (ioctl(m->cpu, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.cr0 = 0x80050033;
	sregs.cr3 = BASE;
	sregs.cr4 = 0x20;
	sregs.efer = 0x500;
	sregs.cs = code;
	/* Some hosts look at the task's I/O map whatever IOPL says: zeros allow all. */
	sregs.tr.base = BASE + ZEROS;
	sregs.tr.limit = 0x3fff;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	if (ioctl(m->cpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(m->cpu, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}

static void unmake(struct machine *m)
{
	if (m->run)
		munmap(m->run, m->run_bytes);
	if (m->own)
		munmap(m->own, OWN_BYTES);
	if (m->cpu >= 0)
		close(m->cpu);
	if (m->vm >= 0)
		close(m->vm);
	if (m->kvm >= 0)
		close(m->kvm);
}

static int make(struct machine *m, void *region, uint32_t nr_pages, const uint64_t *words)
{
	void *own = mmap(NULL, OWN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *run;
	int r;

	*m = (struct machine){.vm = -1, .cpu = -1};
	m->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	m->own = own == MAP_FAILED ? NULL : own;
	if (m->kvm < 0 || !m->own)
		return -errno;
	m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0);
	if (m->vm < 0)
		return -errno;
	(void)ioctl(m->vm, KVM_SET_TSS_ADDR, 0xfffbd000ul); /* where it is not needed it may fail */
	make_tables(m->own);
	memcpy(m->own + PROGRAM, kvm_guest_program, (size_t)(kvm_guest_program_end - kvm_guest_program));
	memcpy(m->own + WORDS, words, nr_pages * 32ul);
	r = set_memory(m, 0, 0, region, nr_pages * 4096ul);
	if (r == 0)
		r = set_memory(m, 1, BASE, m->own, OWN_BYTES);
	if (r)
		return r;
	m->cpu = ioctl(m->vm, KVM_CREATE_VCPU, 0);
	m->run_bytes = (size_t)ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = m->cpu < 0 ? MAP_FAILED
			 : mmap(NULL, m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->cpu, 0);
	if (run == MAP_FAILED)
		return -errno;
	m->run = run;
	return set_registers(m, nr_pages);
}

int kvm_guest_run(void *region, uint32_t nr_pages, uint64_t *words, _Atomic uint64_t *turns,
		  const atomic_bool *stop, uint32_t *ret_gfn)
{
	struct kvm_regs regs;
	struct machine m;
	int r = make(&m, region, nr_pages, words);

	while (r == 0 && !atomic_load(stop)) {
		if (ioctl(m.cpu, KVM_RUN, 0) < 0) {
			r = errno == EINTR || errno == EAGAIN ? 0 : -errno;
		} else if (m.run->exit_reason != KVM_EXIT_IO) {
			r = -EPROTO;
		} else if (m.run->io.port == PORT_ALIVE) {
			atomic_fetch_add(turns, 1);
		} else {
			if (ioctl(m.cpu, KVM_GET_REGS, &regs) == 0)
				*ret_gfn = (uint32_t)regs.rcx;
			r = 1;
		}
	}
	if (m.own)
		memcpy(words, m.own + WORDS, nr_pages * 32ul);
	unmake(&m);
	return r;
}

int kvm_guest_possible(void)
{
	uint8_t *region = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	_Atomic uint64_t turns = 0;
	static uint64_t words[16 * 4];
	atomic_bool stop = false;
	uint32_t gfn;
	int r;

	if (region == MAP_FAILED)
		return 0;
	region[5 * 4096] = 1; /* wrong from the start: it must stop by itself, and say where */
	r = kvm_guest_run(region, 16, words, &turns, &stop, &gfn);
	munmap(region, 16 * 4096);
	return r == 1 && gfn == 5;
}
