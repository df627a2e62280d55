/*
 * fuzz-config.c - any bytes as COPPICE_SHIM: what is taken keeps the grammar's bounds, and says the
 * same when it is written down and read again.
 */
#include "fuzz.h"

#include "shim/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct cop_shim_config config, again;
	char *text = malloc(len + 1), back[400], uffd[32] = "";
	int r;

	must(text, "memory");
	memcpy(text, data, len);
	text[len] = '\0';
	memset(&config, 0x5a, sizeof(config));
	r = cop_shim_config_parse(text, &config);
	free(text);
	must(r == 0 || r == -EINVAL, "another error");
	must(config.listen_fd == -1 || config.listen_fd >= 3, "a listening socket that is standard input");
	if (r)
		return 0;
	must(config.ram_fd >= 3 && config.listen_fd >= 3 && config.ram_fd != config.listen_fd &&
		     config.size_bytes && config.size_bytes % 4096 == 0 && config.ino &&
		     (config.mode == COP_SHIM_MODE_SHARED || config.mode == COP_SHIM_MODE_PRIVATE) &&
		     config.uffd_dev_fd != config.ram_fd && config.uffd_dev_fd != config.listen_fd,
	     "a value out of its bounds");
	if (config.uffd_dev_fd >= 0)
		(void)snprintf(uffd, sizeof(uffd), ":uffd=%d", config.uffd_dev_fd);
	(void)snprintf(back, sizeof(back), "1:size=%zu:ino=%lu:dev=%lu:mode=%s:uid=%u:ram=%d:listen=%d%s",
		       config.size_bytes, config.ino, config.dev,
		       config.mode == COP_SHIM_MODE_SHARED ? "shared" : "private", config.uid,
		       config.ram_fd, config.listen_fd, uffd);
	must(cop_shim_config_parse(back, &again) == 0 && again.size_bytes == config.size_bytes &&
		     again.ino == config.ino && again.dev == config.dev && again.mode == config.mode &&
		     again.uid == config.uid && again.ram_fd == config.ram_fd &&
		     again.listen_fd == config.listen_fd && again.uffd_dev_fd == config.uffd_dev_fd,
	     "another meaning when written down");
	return 0;
}
