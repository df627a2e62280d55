/* SPDX-License-Identifier: MIT */
/*
 * pager.h: messages between the daemon and the pager. docs/ENGINE.md says what they are for.
 *
 * The socket is AF_UNIX SOCK_SEQPACKET, listening in the daemon's folder, for the daemon's user and
 * root only. One struct cop_pager_request a packet, with the descriptors that its type says; one
 * struct cop_pager_answer each, with the request's id, not always in order: EVICT, HOLD and LOAD
 * take their time. Any number of connections. All requests may be repeated: whoever finds that the
 * state asked for is there already answers 0.
 *
 * A RAM image, and the template it belongs to, is named by its 64-bit id (its file name, 16
 * hexadecimal digits). A VM is named by the daemon's number of it plus 1.
 */
#ifndef COP_PROTO_PAGER_H
#define COP_PROTO_PAGER_H

#include <assert.h>
#include <stdint.h>

#define COP_PAGER_MAGIC	      0x47505043u /* the bytes "CPPG" */
#define COP_PAGER_VERSION     1
#define COP_PAGER_CHUNK_BYTES (64u << 10) /* a template's file is read and verified in these */
#define COP_PAGER_MAX_FDS     4
#define COP_PAGER_ALL	      UINT64_MAX

enum cop_pager_type {
	/* Who are you? Answer: value[0] the pager's pid. */
	COP_PAGER_HELLO = 1,
	/*
	 * A template. image; domain; size. Descriptors: the image (O_RDWR); and, once the template
	 * is on disk, its file (O_RDONLY), its sums (O_RDONLY; for each chunk the XXH3_64 of its
	 * bytes, little-endian; 0 for a chunk of zeros, 1 for a sum that is 0), and the file of
	 * chunks touched first (O_RDWR; a bit a chunk, as the pager keeps it). Without a file the
	 * image is whole and stays so: its holes are zeros. With it, a hole is what the file has
	 * there. Flag WHOLE: nothing needs loading now, though there is a file.
	 */
	COP_PAGER_TEMPLATE_ADD = 2,
	COP_PAGER_TEMPLATE_REMOVE = 3, /* image. -EBUSY while a VM is on it */
	/* Load all of a template's image into RAM, and keep it there until the connection ends. */
	COP_PAGER_TEMPLATE_LOAD = 4,
	/*
	 * A VM whose shim has its region mapped. vm; pid; image; size; flag SHARED if the image is
	 * its own and mapped shared, else image is a template that was added. domain: if SHARED.
	 * Descriptors: a connection to its shim's socket; its image (O_RDWR) if SHARED. A VM that is
	 * there already, and whose shim has not hung up, stays as it is: 0.
	 */
	COP_PAGER_VM_ADD = 5,
	/* vm: it has ended. Releases all it held, also what a former pager left; 0 if nothing. */
	COP_PAGER_VM_REMOVE = 6,
	/* Evict size bytes of a VM's pages (COP_PAGER_ALL: all that is private). Answer: value[0]
	 * bytes evicted. */
	COP_PAGER_EVICT = 7,
	/*
	 * Bring back all that was evicted or discarded (as zeros) from a VM, and evict nothing until
	 * RELEASE. Meanwhile a discarded page gets zeros and stays. Before a freeze. It outlasts the
	 * connection: a daemon that was killed may have remapped the VM, and the next one tells.
	 */
	COP_PAGER_HOLD = 8,
	/*
	 * vm; image; flag SHARED: what the VM maps now, and how; with domain as in VM_ADD. If image
	 * or flag are not what they were, all of it was mapped anew with nothing evicted: a booted VM
	 * that was frozen keeps its image and is no longer SHARED. Ends HOLD, if there is one.
	 */
	COP_PAGER_RELEASE = 9,
	/* The one budget. size: bytes that the host may pay for all (0: no limit). Descriptor: the
	 * file to read for what it pays now (decimal number), e.g. memory.current. */
	COP_PAGER_LIMIT = 10,
	COP_PAGER_STATS = 11,	       /* answer: value[] by enum cop_pager_stat */
	COP_PAGER_VM_STATS = 12,       /* vm; answer: value[] by enum cop_pager_vm_stat */
	COP_PAGER_TEMPLATE_STATS = 13, /* image; answer: by enum cop_pager_template_stat */
	COP_PAGER_QUIT = 14,	       /* -EBUSY while there are VMs */
};

enum cop_pager_flag {
	COP_PAGER_SHARED = 1 << 0,
	COP_PAGER_WHOLE = 1 << 1,
};

enum cop_pager_stat {
	COP_PAGER_STAT_STORE_BYTES,    /* host memory of the store's file, everything in it */
	COP_PAGER_STAT_METADATA_BYTES, /* part of it: page tables, slots, directories, dead space */
	COP_PAGER_STAT_INDEX_BYTES,    /* the pager's ordinary memory for indexes */
	COP_PAGER_STAT_RECORDS,	       /* distinct */
	COP_PAGER_STAT_RAW_BYTES,      /* 4096 a page stored */
	COP_PAGER_STAT_DUPLICATES,     /* pages that found their record there */
	COP_PAGER_STAT_EVICTED,	       /* pages, since start */
	COP_PAGER_STAT_RESTORED,       /* pages, since start */
	COP_PAGER_STAT_FAULTS,	       /* events served, since start */
	COP_PAGER_STAT_DAMAGED,	       /* VMs stopped for a record or template page that is damaged */
	COP_PAGER_STAT_STORE_LIMIT,    /* bytes the store may have */
	COP_PAGER_STAT_USED,	       /* what the host pays, as last read; 0 if unknown */
	COP_PAGER_STAT_LIMIT,
	COP_PAGER_NR_STATS,
};

enum cop_pager_vm_stat {
	COP_PAGER_VM_STATE, /* enum cop_pager_vm_state */
	COP_PAGER_VM_STORED_RAW_BYTES,
	COP_PAGER_VM_STORED_BYTES, /* its records as coded, shared ones in full */
	COP_PAGER_VM_ZERO_BYTES,   /* evicted without a record: zero */
	COP_PAGER_VM_SAME_BYTES,   /* evicted without a record: the template's */
	COP_PAGER_VM_DISCARDED_BYTES,
	COP_PAGER_VM_EVICTED,	/* pages, since the pager's start */
	COP_PAGER_VM_RESTORED,	/* pages */
	COP_PAGER_VM_FAULTS,	/* events */
	COP_PAGER_VM_MAPPINGS,	/* runs replaced, as an estimate of mappings used */
	COP_PAGER_NR_VM_STATS,
};

enum cop_pager_vm_state {
	COP_PAGER_VM_RUNNING,
	COP_PAGER_VM_HELD,
	/* Its memory can't be given back to it: it must be killed. The answer's text says why. */
	COP_PAGER_VM_DAMAGED,
	COP_PAGER_VM_GONE, /* its shim has hung up */
};

enum cop_pager_template_stat {
	COP_PAGER_TEMPLATE_RESIDENT_BYTES, /* of its image */
	COP_PAGER_TEMPLATE_NONZERO_BYTES,  /* of its file; 0 if there is none yet */
	COP_PAGER_TEMPLATE_LOADED_BYTES,   /* read from the file since start */
	COP_PAGER_TEMPLATE_DROPPED_BYTES,  /* cold pages that left the image since start */
	COP_PAGER_TEMPLATE_VMS,
	COP_PAGER_NR_TEMPLATE_STATS,
};

struct cop_pager_request {
	uint32_t magic;	  /*  0: COP_PAGER_MAGIC */
	uint16_t version; /*  4: COP_PAGER_VERSION */
	uint16_t type;	  /*  6: enum cop_pager_type */
	uint32_t id;	  /*  8: chosen by the asker */
	uint32_t flags;	  /* 12: enum cop_pager_flag, ORed */
	uint64_t vm;	  /* 16 */
	uint64_t image;	  /* 24 */
	uint64_t size;	  /* 32: bytes */
	uint32_t pid;	  /* 40 */
	uint32_t domain;  /* 44: trust domain, 1..65535 */
};

#define COP_PAGER_TEXT_BYTES 160
#define COP_PAGER_NR_VALUES  16

struct cop_pager_answer {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t id;
	int32_t status; /* 0 or -errno */
	uint64_t value[COP_PAGER_NR_VALUES];
	char text[COP_PAGER_TEXT_BYTES]; /* why, for people; terminated */
};

static_assert(sizeof(struct cop_pager_request) == 48, "sent as is");
static_assert(sizeof(struct cop_pager_answer) == 16 + 128 + 160, "sent as is");
static_assert(COP_PAGER_NR_STATS <= COP_PAGER_NR_VALUES, "fits");
static_assert(COP_PAGER_NR_VM_STATS <= COP_PAGER_NR_VALUES, "fits");

#endif
