/* draw FILE: draws random numbers without a pause, in a guest: what a clone draws before its random state
 * is its own, its twins draw as well. Ends in a clone, when its agent has written /run/coppice/generation,
 * and then makes FILE: the last of them, a line each.
 */
#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#define KEPT 100000u /* those of seconds: asking for the file takes most of the time */

static uint64_t drawn[KEPT];

int main(int argc, char **argv)
{
	char temp[256];
	uint64_t nr = 0;
	FILE *f;

	while (access("/run/coppice/generation", F_OK) < 0) {
		if (getrandom(&drawn[nr % KEPT], sizeof(*drawn), 0) != sizeof(*drawn))
			return 1;
		nr++;
	}
	if (argc != 2)
		return 2;
	snprintf(temp, sizeof(temp), "%.200s.new", argv[1]);
	f = fopen(temp, "w");
	for (uint64_t i = nr > KEPT ? nr - KEPT : 0; f && i < nr; i++)
		fprintf(f, "%016llx\n", (unsigned long long)drawn[i % KEPT]);
	return !f || fclose(f) || rename(temp, argv[1]) < 0;
}
