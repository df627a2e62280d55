/*
 * pagegen.h - pages that no corpus holds: made from a seed, alike in kind to what memory is full
 * of.
 *
 * For measuring and testing on something other than what the coders' constants were looked at with.
 */
#ifndef COP_BENCH_PAGEGEN_H
#define COP_BENCH_PAGEGEN_H

#include <stdint.h>

enum cop_page_kind {
	COP_PAGES_TEXT,	     /* words of a made-up language, Zipf-distributed */
	COP_PAGES_CODE,	     /* instructions with registers, displacements, call targets */
	COP_PAGES_HEAP,	     /* allocator chunks: headers, pointers, small numbers, short strings */
	COP_PAGES_RELOCATED, /* tables of pointers and code of one library, at other bases */
	COP_PAGES_RANDOM,    /* every byte */
	COP_PAGES_IDLE,	     /* 41 % the template's page, else a few words changed */
	COP_PAGES_MIXED,     /* all of these, some zero, some equal to an earlier one */
	COP_NR_PAGE_KINDS,
};

extern const char *const cop_page_kind_names[COP_NR_PAGE_KINDS];

/* Writes page nr of a kind, and the template's page there (both 4096 bytes). The same arguments
 * give the same bytes. */
void cop_pagegen(enum cop_page_kind kind, uint64_t seed, uint32_t nr, uint8_t *ret_page,
		 uint8_t *ret_template);

/* SplitMix64 (G. Steele et al. 2014): the next number, and one below n. */
uint64_t cop_random(uint64_t *state);
uint32_t cop_random_below(uint64_t *state, uint32_t n);

#endif
