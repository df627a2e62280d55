/* SPDX-License-Identifier: MIT */
/*
 * shim.h: messages between the daemon and the shim inside QEMU. docs/formats/shim.md describes
 * them.
 *
 * The socket is AF_UNIX SOCK_SEQPACKET: one struct cop_shim_msg a message, the same layout for
 * requests and answers; ranges follow it in a REPLACE. Every request gets exactly one answer, in
 * order. On the pager's connection the shim asks too: DISCARD, up to COP_SHIM_MAX_DISCARDS of them
 * outstanding, answered in any order.
 */
#ifndef COP_PROTO_SHIM_H
#define COP_PROTO_SHIM_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "messages are little-endian; this file would need conversions"
#endif

#define COP_SHIM_ENV	 "COPPICE_SHIM"
#define COP_SHIM_MAGIC	 0x4d485343u /* the bytes "CSHM" */
#define COP_SHIM_VERSION 1

enum cop_shim_type {
	COP_SHIM_HELLO = 1,	  /* no descriptor; describes the region */
	COP_SHIM_MAP_PRIVATE = 2, /* one descriptor; replaces the whole region */
	COP_SHIM_ATTACH = 3,  /* this connection is the pager's; the answer has the userfaultfd */
	COP_SHIM_REPLACE = 4, /* pager: followed by struct cop_shim_range; answer: len done */
	COP_SHIM_DISCARD = 5, /* from the shim to the pager, which answers: see docs */
};

/* What REPLACE does to a range of the region. */
enum cop_shim_op {
	COP_SHIM_OP_EMPTY = 1,	  /* replace it by empty registered memory, from staging */
	COP_SHIM_OP_TEMPLATE = 2, /* drop private pages: madvise(MADV_DONTNEED) */
};

struct cop_shim_range {
	uint64_t addr; /* in QEMU */
	uint32_t len;  /* bytes; EMPTY: at most COP_SHIM_STAGING_BYTES */
	uint32_t op;   /* enum cop_shim_op */
};

static_assert(sizeof(struct cop_shim_range) == 16, "sent as is");

#define COP_SHIM_MAX_RANGES    256
#define COP_SHIM_MAX_DISCARDS  16
#define COP_SHIM_STAGING_BYTES (2u << 20)

/* What the region is mapped from now. */
enum cop_shim_mode {
	COP_SHIM_MODE_NONE = 0,
	COP_SHIM_MODE_SHARED = 1,
	COP_SHIM_MODE_PRIVATE = 2,
};

enum cop_shim_flag {
	COP_SHIM_SEEN = 1 << 0, /* QEMU has mapped the dummy and got the region instead */
	COP_SHIM_LOST = 1 << 1, /* a replacement failed half-way: guest RAM is gone, kill the VM */
};

struct cop_shim_msg {
	uint32_t magic;	     /*  0: COP_SHIM_MAGIC */
	uint16_t version;    /*  4: COP_SHIM_VERSION */
	uint16_t type;	     /*  6: enum cop_shim_type; the answer repeats it */
	uint32_t id;	     /*  8: chosen by the asker; the answer repeats it */
	int32_t status;	     /* 12: request: 0; answer: 0 or -errno */
	uint64_t addr;	     /* 16: HELLO request: 0; MAP_PRIVATE request: as HELLO answered */
	uint64_t len;	     /* 24: bytes; likewise. REPLACE: ranges, answer: ranges done */
	uint32_t mode;	     /* 32: request: 0; answer: enum cop_shim_mode */
	uint32_t flags;	     /* 36: request: 0; answer: enum cop_shim_flag, ORed */
	uint32_t generation; /* 40: request: 0; answer: number of replacements made so far */
	uint32_t reserved;   /* 44: 0 */
};

static_assert(sizeof(struct cop_shim_msg) == 48, "sent as is");
static_assert(offsetof(struct cop_shim_msg, addr) == 16, "sent as is");
static_assert(offsetof(struct cop_shim_msg, reserved) == 44, "sent as is");

#endif
