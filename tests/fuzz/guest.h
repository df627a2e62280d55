/*
 * guest.h - a process with guest RAM in it, as a QEMU with the shim would have: the pager that is
 * fuzzed reads and changes its memory, so it can't be the fuzzer's own. It does what it is told; what
 * is told to the pager is made up by the target.
 *
 * One thread at a time calls these. A guest that hangs or has died is replaced: all false.
 */
#ifndef FUZZ_GUEST_H
#define FUZZ_GUEST_H

#include "fuzz.h"
#include "proto/shim.h"

#include <sys/types.h>

#define GUEST_REGIONS 2
#define GUEST_PAGES   60u /* the last chunk of 16 is a part of one */
#define GUEST_BYTES   (GUEST_PAGES * 4096ul)

/* The process, started if need be. */
pid_t guest_pid(void);

/*
 * Maps region `nth` anew from image, shared or private, some pages of it written to, with a
 * userfaultfd, that blocks if `blocking`. False also where there may be none.
 */
bool guest_map(unsigned int nth, int image, bool shared, bool blocking, int *ret_uffd,
	       uint64_t *ret_addr);
/* As the shim's REPLACE. */
bool guest_replace(unsigned int nth, const struct cop_shim_range *ranges, unsigned int nr,
		   unsigned int *ret_done);
/* A thread of it reads or writes a page. Does not wait for that. */
void guest_touch(unsigned int nth, unsigned int page, bool write);
/* It ends; the next call starts another. */
void guest_kill(void);

#endif
