/* coppice-agent freeze, fork, info: asks the agent, prints what it learns for a shell. See agent.h. */
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TIMEOUT_S 600
#define INFO_TIMEOUT_S 10
#define MAX_TIMEOUT_S 604800
#define MAX_FORK 4096

static int fail(const char *text)
{
	fprintf(stderr, "coppice-agent: %s\n", text);
	return 1;
}

static void print_json_text(const char *text)
{
	putchar('"');
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p == '"' || *p == '\\')
			printf("\\%c", *p);
		else if (*p < ' ')
			printf("\\u%04x", *p);
		else
			putchar(*p);
	}
	putchar('"');
}

static void print_json(const struct cop_agent_response *m, const char *role)
{
	const char *between = "";

	printf("{\"role\": \"%s\", \"name\": ", role);
	print_json_text(m->name);
	printf(", \"index\": %u, \"count\": %u, \"template\": ", m->index, m->count);
	print_json_text(m->template);
	printf(", \"params\": {");
	for (size_t i = 0; m->params[i]; i++) {
		const char *is = strchr(m->params[i], '=');
		char key[256];

		if (!is)
			continue;
		snprintf(key, sizeof(key), "%.*s", (int)(is - m->params[i]), m->params[i]);
		printf("%s", between);
		between = ", ";
		print_json_text(key);
		printf(": ");
		print_json_text(is + 1);
	}
	printf("}}\n");
}

static int print_answer(const struct cop_agent_response *m, bool json)
{
	static char line[4 * COP_AGENT_FRAME_MAX];
	static struct agent_vars v;
	const char *role = m->role == COP_AGENT_ROLE_CLONE ? "clone" : "parent";

	if (m->role == COP_AGENT_ROLE_ERROR)
		return fail(*m->text ? m->text : "the host refused");
	if (json) {
		print_json(m, role);
		return 0;
	}
	agent_vars_add(&v, "COPPICE_ROLE", "%s", role);
	agent_vars_add(&v, "COPPICE_NAME", "%s", m->name);
	agent_vars_add(&v, "COPPICE_INDEX", "%u", m->index);
	agent_vars_add(&v, "COPPICE_COUNT", "%u", m->count);
	agent_vars_add(&v, "COPPICE_TEMPLATE", "%s", m->template);
	for (uint32_t i = 0; i < v.nr; i++)
		if (agent_var_quote(line, sizeof(line), v.list[i]))
			fputs(line, stdout);
	for (size_t i = 0; m->params[i]; i++) {
		const char *const one[] = {m->params[i], NULL};

		v.nr = v.len = 0;
		agent_vars_add_params(&v,
				      m->role == COP_AGENT_ROLE_CLONE ? "COPPICE_PARAM_"
								      : "COPPICE_",
				      one);
		if (v.nr && agent_var_quote(line, sizeof(line), v.list[0]))
			fputs(line, stdout);
	}
	return 0;
}

static int ask(const struct cop_agent_request *m, int timeout_s, bool json, const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int64_t end_us = agent_now_us() + timeout_s * 1000000LL;
	struct cop_agent_response answer;
	struct cop_agent_frame f;
	ssize_t len = cop_agent_put_request(agent.frame, 0, 1, m), n;
	struct pollfd p = {.events = POLLIN};

	if (len < 0)
		return fail("the parameters are too many, too long, or no KEY=VALUE");
	if (strlen(path) >= sizeof(to.sun_path))
		return fail("--root is too long");
	strcpy(to.sun_path, path);
	p.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (p.fd < 0 || connect(p.fd, (struct sockaddr *)&to, sizeof(to)) < 0 ||
	    send(p.fd, agent.frame, (size_t)len, MSG_NOSIGNAL) != len) {
		fprintf(stderr, "coppice-agent: %s: %s (does the agent run, and are you root?)\n",
			path, strerror(errno));
		return 1;
	}
	do {
		int64_t left_ms = (end_us - agent_now_us()) / 1000;

		if (left_ms <= 0)
			return fail("the host did not answer in time");
		n = poll(&p, 1, (int)(left_ms > 60000 ? 60000 : left_ms));
	} while (n <= 0);
	n = recv(p.fd, agent.frame, sizeof(agent.frame), 0);
	if (n < (ssize_t)COP_AGENT_HEAD_BYTES)
		return fail("the agent has ended, or too many ask it at once");
	f = (struct cop_agent_frame){.payload = agent.frame + COP_AGENT_HEAD_BYTES,
				     .len = (uint32_t)n - COP_AGENT_HEAD_BYTES};
	if (cop_agent_get_response(&f, agent.store, &answer) < 0)
		return fail("the answer is malformed");
	return print_answer(&answer, json);
}

static bool number(const char *text, long max, long *ret)
{
	char *end;

	errno = 0;
	*ret = strtol(text, &end, 10);
	return !errno && *text && !*end && *ret >= 1 && *ret <= max;
}

int agent_client(int argc, char **argv, const char *path)
{
	static const char *params[COP_AGENT_MAX_PARAMS + 1];
	struct cop_agent_request m = {.name = "", .params = params};
	long timeout_s = TIMEOUT_S, count = 0;
	unsigned nr_params = 0;
	bool json = false;
	int i = 1;

	if (!strcmp(argv[0], "freeze") && i < argc && argv[i][0] && argv[i][0] != '-') {
		m.kind = COP_AGENT_REQUEST_FREEZE;
		m.name = argv[i++];
	} else if (!strcmp(argv[0], "fork") && i < argc && number(argv[i], MAX_FORK, &count)) {
		m.kind = COP_AGENT_REQUEST_FORK;
		m.count = (uint32_t)count;
		i++;
	} else if (!strcmp(argv[0], "info")) {
		m.kind = COP_AGENT_REQUEST_INFO;
		timeout_s = INFO_TIMEOUT_S;
	} else {
		return 2;
	}
	for (; i < argc; i++) {
		if (!strcmp(argv[i], "--timeout") && i + 1 < argc &&
		    number(argv[i + 1], MAX_TIMEOUT_S, &timeout_s))
			i++;
		else if (!strcmp(argv[i], "--json") && m.kind == COP_AGENT_REQUEST_INFO)
			json = true;
		else if (!strcmp(argv[i], "-p") && i + 1 < argc && m.kind == COP_AGENT_REQUEST_FORK &&
			 nr_params < COP_AGENT_MAX_PARAMS)
			params[nr_params++] = argv[++i];
		else
			return 2;
	}
	return ask(&m, (int)timeout_s, json, path);
}
