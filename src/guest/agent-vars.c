/* COPPICE_* variables: of hooks, of /run/coppice/identity, of what the program prints. */
#include "agent.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void end_one(struct agent_vars *v, size_t len)
{
	if (v->nr >= AGENT_MAX_VARS || v->len + len + 1 > sizeof(v->text))
		return;
	v->list[v->nr++] = v->text + v->len;
	v->list[v->nr] = NULL;
	v->len += (uint32_t)len + 1;
}

void agent_vars_add(struct agent_vars *v, const char *name, const char *fmt, ...)
{
	size_t room = sizeof(v->text) - v->len;
	int n = snprintf(v->text + v->len, room, "%s=", name), m;
	va_list args;

	if (n < 0 || (size_t)n >= room)
		return;
	va_start(args, fmt);
	m = vsnprintf(v->text + v->len + n, room - (size_t)n, fmt, args);
	va_end(args);
	if (m >= 0 && (size_t)(n + m) < room)
		end_one(v, (size_t)(n + m));
}

void agent_vars_add_params(struct agent_vars *v, const char *prefix, const char *const *params)
{
	for (size_t i = 0; params && params[i]; i++) {
		char name[128];
		size_t len = 0, before = strlen(prefix);
		const char *is = strchr(params[i], '=');

		memcpy(name, prefix, before);
		for (const char *p = params[i]; is && p < is && before + len < sizeof(name) - 1; p++) {
			char c = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;

			if (!((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')))
				c = '_';
			name[before + len++] = c;
		}
		name[before + len] = 0;
		if (is)
			agent_vars_add(v, name, "%s", is + 1);
	}
}

size_t agent_var_quote(char *buf, size_t size, const char *var)
{
	const char *is = strchr(var, '=');
	size_t len = 0;

	for (const char *p = var; *p && len + 8 < size; p++) {
		if (p > is && *p == '\'') {
			memcpy(buf + len, "'\\''", 4);
			len += 4;
		} else {
			buf[len++] = *p;
		}
		if (p == is)
			buf[len++] = '\'';
	}
	if (len + 3 > size)
		return 0;
	buf[len++] = '\'';
	buf[len++] = '\n';
	buf[len] = 0;
	return len;
}
