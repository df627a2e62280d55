/* SPDX-License-Identifier: MIT */
/* config.c: parse the COPPICE_SHIM variable. Grammar in config.h. Pure; no allocation. */
#include "shim/config.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum key { KEY_LISTEN, KEY_RAM, KEY_MODE, KEY_UID, KEY_DEV, KEY_INO, KEY_SIZE, KEY_UFFD, NR_KEYS };

static const struct {
	const char *name;
	bool needed;
	uint64_t min, max; /* of the number; mode is a word */
} keys[NR_KEYS] = {
	[KEY_LISTEN] = {"listen=", true, 3, INT_MAX},
	[KEY_RAM] = {"ram=", true, 3, INT_MAX},
	[KEY_MODE] = {"mode=", true, 0, 0},
	[KEY_UID] = {"uid=", false, 0, UINT32_MAX - 1},
	[KEY_DEV] = {"dev=", true, 0, UINT64_MAX},
	[KEY_INO] = {"ino=", true, 1, UINT64_MAX},
	[KEY_SIZE] = {"size=", true, 4096, INT64_MAX},
	[KEY_UFFD] = {"uffd=", false, 0, INT_MAX},
};

/* The decimal number that is the @len bytes at @text. */
static bool parse_number(const char *text, size_t len, uint64_t *ret_value)
{
	uint64_t value = 0;

	if (len == 0 || (len > 1 && text[0] == '0'))
		return false;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value))
			return false;
	}
	*ret_value = value;
	return true;
}

static bool parse_mode(const char *text, size_t len, uint64_t *ret_value)
{
	if (len == 6 && memcmp(text, "shared", 6) == 0)
		*ret_value = COP_SHIM_MODE_SHARED;
	else if (len == 7 && memcmp(text, "private", 7) == 0)
		*ret_value = COP_SHIM_MODE_PRIVATE;
	else
		return false;
	return true;
}

/* One pair of @len bytes. Returns its key, or NR_KEYS when it is malformed. */
static enum key parse_pair(const char *text, size_t len, uint64_t *ret_value)
{
	for (enum key k = 0; k < NR_KEYS; k++) {
		size_t name_len = strlen(keys[k].name);

		if (len < name_len || memcmp(text, keys[k].name, name_len) != 0)
			continue;
		text += name_len;
		len -= name_len;
		if (k == KEY_MODE)
			return parse_mode(text, len, ret_value) ? k : NR_KEYS;
		if (!parse_number(text, len, ret_value) || *ret_value < keys[k].min ||
		    *ret_value > keys[k].max)
			return NR_KEYS;
		return k;
	}
	return NR_KEYS;
}

int cop_shim_config_parse(const char *text, struct cop_shim_config *ret_config)
{
	uint64_t values[NR_KEYS] = {0};
	bool given[NR_KEYS] = {false};
	bool good = strncmp(text, "1:", 2) == 0;

	/* All pairs are looked at even after a mistake: listen= may come later. */
	for (const char *at = strchrnul(text, ':'); *at;) {
		size_t len = strcspn(++at, ":");
		uint64_t value = 0;
		enum key k = parse_pair(at, len, &value);

		at += len;
		if (k == NR_KEYS || given[k]) {
			good = false;
			continue;
		}
		given[k] = true;
		values[k] = value;
	}
	for (enum key k = 0; k < NR_KEYS; k++)
		good = good && (given[k] || !keys[k].needed);
	if (given[KEY_UFFD] && values[KEY_UFFD] > 0 &&
	    (values[KEY_UFFD] < 3 || values[KEY_UFFD] == values[KEY_LISTEN] ||
	     values[KEY_UFFD] == values[KEY_RAM]))
		good = false;
	if (values[KEY_LISTEN] == values[KEY_RAM] || values[KEY_SIZE] % 4096 != 0)
		good = false;

	*ret_config = (struct cop_shim_config){
		.listen_fd = given[KEY_LISTEN] ? (int)values[KEY_LISTEN] : -1,
		.ram_fd = -1,
		.uffd_dev_fd = -1,
	};
	if (!good)
		return -EINVAL;
	ret_config->ram_fd = (int)values[KEY_RAM];
	ret_config->mode = (enum cop_shim_mode)values[KEY_MODE];
	ret_config->uid = (uid_t)values[KEY_UID];
	ret_config->dev = values[KEY_DEV];
	ret_config->ino = values[KEY_INO];
	ret_config->size_bytes = values[KEY_SIZE];
	if (given[KEY_UFFD])
		ret_config->uffd_dev_fd = (int)values[KEY_UFFD];
	return 0;
}
