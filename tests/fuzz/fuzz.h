/* fuzz.h - what the targets with sockets share: taking apart the input, patience, descriptors. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* No test is decided by it: only what hangs takes so long. */
#define PATIENCE_MS 20000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct input {
	const uint8_t *at;
	size_t left;
};

/* The next byte; 0 after the end. */
static inline uint8_t take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

/* The next len bytes, zeros after the end. */
void take_bytes(struct input *in, void *to, size_t len);

int64_t now_ms(void);

/* Says why and stops the process. */
void __attribute__((noreturn, format(printf, 1, 2))) found(const char *format, ...);
/* Stops the process if nothing else does: what is being waited for. NULL: nothing. */
static inline void must(bool good, const char *what)
{
	if (!good)
		found("%s", what);
}

/* How many descriptors this process has open. */
unsigned int count_fds(void);

/* A sealed-off file in memory with these bytes; memory beyond is a hole. */
int make_file(const void *bytes, size_t len, size_t size);

/* Waits for something to read, or a hang-up. */
bool wait_readable(int fd, int timeout_ms);

#endif
