/* Sessions, and which frame does what. See agent.h and docs/formats/agent.md.
 *
 * States: none (agent.session is 0; all but HELLO is ignored) -> open (HELLO) -> open with another
 * number (HELLO), or none (a frame that is malformed, input beyond the credit, no common version).
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* All of a session is gone; the next begins with the mark. */
static void end_session(bool is_clone)
{
	agent.session = 0;
	agent_hold_end();
	(void)agent_thaw();
	agent_exec_reset(is_clone);
	agent_identity_reset();
	agent_port_drop();
}

void agent_session_end(const char *why)
{
	if (!agent.session)
		return;
	end_session(false);
	cop_agent_rx_hunt(&agent.rx);
	agent_log("coppice-agent: %s", why);
}

static void read_boot_id(char *buf, size_t size)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = 0;
	buf[strcspn(buf, "\n")] = 0;
}

static void hello(const struct cop_agent_frame *f)
{
	uint16_t high = COP_AGENT_PROTO_MAX;
	struct cop_agent_hello m;
	char boot_id[64], text[128];

	if (!f->synced || cop_agent_get_hello(f, &m) < 0)
		return;
	/* First of all, and before the hold ends: nobody may draw what the clone's twins draw. */
	if (m.flags & COP_AGENT_HELLO_CLONE)
		(void)agent_random_mix(m.random); /* IDENTIFY tries again, and reports */
	explicit_bzero(m.random, sizeof(m.random));
	end_session(m.flags & COP_AGENT_HELLO_CLONE);
	if (m.proto_max < high)
		high = m.proto_max;
	if (high < COP_AGENT_PROTO_MIN || m.proto_min > COP_AGENT_PROTO_MAX) {
		struct cop_agent_refused no = {.session = m.session,
					       .proto_min = COP_AGENT_PROTO_MIN,
					       .proto_max = COP_AGENT_PROTO_MAX,
					       .text = text};

		snprintf(text, sizeof(text),
			 "the agent " AGENT_VERSION " speaks protocol %d to %d, the host %u to %u: "
			 "the %s is too old",
			 COP_AGENT_PROTO_MIN, COP_AGENT_PROTO_MAX, m.proto_min, m.proto_max,
			 high < COP_AGENT_PROTO_MIN ? "host" : "agent");
		agent_send(cop_agent_put_refused(agent.frame, &no));
		return;
	}
	agent.session = m.session;
	read_boot_id(boot_id, sizeof(boot_id));
	agent_send(cop_agent_put_hello_ack(
		agent.frame, &(struct cop_agent_hello_ack){.session = m.session,
							   .proto = high,
							   .proto_min = COP_AGENT_PROTO_MIN,
							   .proto_max = COP_AGENT_PROTO_MAX,
							   .pid = (uint32_t)getpid(),
							   .version = AGENT_VERSION,
							   .boot_id = boot_id}));
	agent_local_session(m.flags & COP_AGENT_HELLO_CLONE);
}

void agent_send_error(uint32_t id, int error, const char *fmt, ...)
{
	char text[COP_AGENT_MAX_TEXT + 1];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	agent_send(cop_agent_put_error(agent.frame, (uint32_t)agent.session, id, (uint32_t)error,
				       text));
}

static int on_exec(const struct cop_agent_frame *f)
{
	struct cop_agent_exec m;
	int r = cop_agent_get_exec(f, agent.store, &m);

	if (r == 0)
		agent_exec_start(f->id, &m);
	return r;
}

static int on_data(const struct cop_agent_frame *f)
{
	const uint8_t *data;
	uint8_t stream;
	size_t len;
	int r = cop_agent_get_data(f, &stream, &data, &len);

	if (r < 0 || stream != COP_AGENT_STDIN)
		return -EBADMSG;
	return agent_exec_input(f->id, data, len) ? 0 : -EBADMSG;
}

static int on_eof(const struct cop_agent_frame *f)
{
	uint8_t stream;
	int r = cop_agent_get_eof(f, &stream);

	if (r < 0 || stream != COP_AGENT_STDIN)
		return -EBADMSG;
	agent_exec_eof(f->id);
	return 0;
}

static int on_credit(const struct cop_agent_frame *f)
{
	uint32_t bytes;
	uint8_t stream;
	int r = cop_agent_get_credit(f, &stream, &bytes);

	if (r == 0)
		agent_exec_credit(f->id, stream, bytes);
	return r;
}

static int on_signal(const struct cop_agent_frame *f)
{
	uint8_t number;
	int r = cop_agent_get_signal(f, &number);

	if (r == 0)
		agent_exec_signal(f->id, number);
	return r;
}

static int on_resize(const struct cop_agent_frame *f)
{
	uint16_t rows, columns;
	int r = cop_agent_get_resize(f, &rows, &columns);

	if (r == 0)
		agent_exec_resize(f->id, rows, columns);
	return r;
}

static int on_quiesce(const struct cop_agent_frame *f)
{
	uint32_t timeout_ms;
	int r = cop_agent_get_limit(f, &timeout_ms);

	if (r == 0)
		agent_quiesce(f->id, timeout_ms);
	return r;
}

static int on_hold(const struct cop_agent_frame *f)
{
	uint32_t timeout_ms;
	int r = cop_agent_get_limit(f, &timeout_ms), error;

	if (r < 0)
		return r;
	error = agent_hold(timeout_ms);
	if (error)
		agent_send_error(f->id, -error, "programs can't be held: %s", strerror(-error));
	else
		agent_send(cop_agent_put_empty(agent.frame, (uint32_t)agent.session,
					       COP_AGENT_HELD, f->id));
	return 0;
}

static int on_identify(const struct cop_agent_frame *f)
{
	struct cop_agent_identify m;
	int r = cop_agent_get_identify(f, agent.store, &m);

	if (r == 0)
		agent_identify(f);
	return r;
}

static int answer_empty(const struct cop_agent_frame *f, uint8_t type)
{
	int r = cop_agent_get_empty(f);

	if (r == 0)
		agent_send(cop_agent_put_empty(agent.frame, (uint32_t)agent.session, type, f->id));
	return r;
}

static int dispatch(const struct cop_agent_frame *f)
{
	switch (f->type) {
	case COP_AGENT_EXEC:
		return on_exec(f);
	case COP_AGENT_DATA:
		return on_data(f);
	case COP_AGENT_EOF:
		return on_eof(f);
	case COP_AGENT_CREDIT:
		return on_credit(f);
	case COP_AGENT_SIGNAL:
		return on_signal(f);
	case COP_AGENT_RESIZE:
		return on_resize(f);
	case COP_AGENT_ABANDON:
		agent_exec_abandon(f->id);
		return cop_agent_get_empty(f);
	case COP_AGENT_IDENTIFY:
		return on_identify(f);
	case COP_AGENT_QUIESCE:
		return on_quiesce(f);
	case COP_AGENT_HOLD:
		return on_hold(f);
	case COP_AGENT_THAW:
		agent_hold_end();
		(void)agent_thaw();
		return answer_empty(f, COP_AGENT_THAWED);
	case COP_AGENT_RESPONSE:
		agent_local_response(f);
		return 0;
	case COP_AGENT_PING:
		return answer_empty(f, COP_AGENT_PONG);
	default:
		return 0; /* of a later version */
	}
}

void agent_session_frame(const struct cop_agent_frame *f)
{
	if (f->type == COP_AGENT_HELLO) {
		hello(f);
		return;
	}
	if (!agent.session || f->session != (uint32_t)agent.session)
		return;
	if (dispatch(f) < 0)
		agent_session_end("the host sent a wrong frame");
}
