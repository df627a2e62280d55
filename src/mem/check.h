/*
 * check.h - the checksum of a page: XXH3_64 (Y. Collet), verified on every restore and used to find
 * equal pages.
 *
 * The same value from any processor; with AVX2 in half the time.
 */
#ifndef COP_MEM_CHECK_H
#define COP_MEM_CHECK_H

#include <stddef.h>
#include <stdint.h>

/* XXH3_64 of any bytes. */
uint64_t cop_check(const uint8_t *bytes, size_t len_bytes);

/* XXH3_64 of the 4096 bytes, mixed with the trust domain, so that equal pages of two domains don't
 * look equal. */
uint64_t cop_page_check(const uint8_t *page, unsigned int domain);

/* check-avx2.c: only where the processor has AVX2. */
uint64_t cop_page_hash_avx2(const uint8_t *page);

#endif
