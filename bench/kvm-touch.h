/*
 * kvm-touch.h - a guest under KVM that touches pages of a region when it is told to.
 *
 * A few instructions in long mode at CPL 3, as some hosts run nothing else natively; no QEMU, no
 * firmware, no kernel, no interrupt controller.
 */
#ifndef COP_BENCH_KVM_TOUCH_H
#define COP_BENCH_KVM_TOUCH_H

#include <stddef.h>
#include <stdint.h>

struct kvm_touch;

/* The region must stay mapped where it is; 1 GiB at most. 0 or -errno. */
int kvm_touch_new(void *region, size_t len, struct kvm_touch **ret);
/* Reads a byte of each of nr pages from there on; *ret_ticks by the guest's own clock. 0 or -errno.
 */
int kvm_touch_pages(struct kvm_touch *t, uint64_t offset, uint32_t nr, uint64_t *ret_ticks);
void kvm_touch_free(struct kvm_touch *t);

#endif
