/*
 * kvm-guest.h - a guest under KVM, a few dozen instructions long, that works on a region.
 *
 * It runs in long mode at CPL 3 from its first instruction, as some hosts run nothing else natively: picks
 * a page, compares four of its words with a table of what it wrote last, writes them anew half of
 * the time, and goes on for ever. No QEMU, no firmware, no kernel.
 */
#ifndef COP_TEST_KVM_GUEST_H
#define COP_TEST_KVM_GUEST_H

#include <stdatomic.h>
#include <stdint.h>

/* Where in a page the four words are, in words. */
#define KVM_GUEST_WORDS {0, 128, 256, 511}

/* Can this host run it? */
int kvm_guest_possible(void);

/*
 * Runs until *stop, or until the guest finds a wrong word: then returns 1 with *ret_gfn. words: 4
 * for each page, what is there now; kept up to date. nr_pages: a power of 2. turns counts rounds of
 * 4096 pages. 0, or -errno.
 */
int kvm_guest_run(void *region, uint32_t nr_pages, uint64_t *words, _Atomic uint64_t *turns,
		  const atomic_bool *stop, uint32_t *ret_gfn);

#endif
