/* replay.c - runs a fuzz target over every file of the directories named, in place of libFuzzer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int replay(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int nr = 0;

	if (!d) {
		perror(dir);
		return 0;
	}
	while ((e = readdir(d))) {
		char name[4096];
		uint8_t *data;
		size_t len;
		FILE *f;

		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", dir, e->d_name);
		f = fopen(name, "rb");
		data = malloc(1 << 20);
		if (!f || !data) {
			perror(name);
			exit(1);
		}
		len = fread(data, 1, 1 << 20, f);
		fclose(f);
		/* Exactly as long as it is, so that a sanitizer sees what reads beyond. */
		data = realloc(data, len + !len);
		(void)LLVMFuzzerTestOneInput(
			data, len); /* it stops the process when it finds something */
		free(data);
		nr++;
	}
	closedir(d);
	return nr;
}

int main(int argc, char **argv)
{
	int nr = 0;

	for (int i = 1; i < argc; i++)
		nr += replay(argv[i]);
	printf("%d inputs\n", nr);
	return nr ? 0 : 1; /* an empty corpus tests nothing */
}
