/* SPDX-License-Identifier: MIT */
/*
 * agent.h: frames between the daemon and the agent inside a guest. docs/formats/agent.md describes
 * them, and how both sides find each other again after a cut.
 *
 * Pure: no system calls, no allocation; every length is checked against what was received. Both
 * sides and the fuzz target use it. Functions return a length or 0, or -errno:
 *   -EBADMSG  the bytes are no such message
 *   -E2BIG    it does not fit into a frame, or a list is too long
 *   -EINVAL   it can't be expressed: an unknown value, or it would contain the sync mark
 */
#ifndef COP_PROTO_AGENT_H
#define COP_PROTO_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define COP_AGENT_PORT	      "org.coppice.agent.0"
#define COP_AGENT_PROTO_MIN   1
#define COP_AGENT_PROTO_MAX   1
#define COP_AGENT_MAGIC	      0x41504f43u /* the bytes "COPA" */
#define COP_AGENT_HEAD_BYTES  16u
#define COP_AGENT_FRAME_MAX   65536u
#define COP_AGENT_PAYLOAD_MAX (COP_AGENT_FRAME_MAX - COP_AGENT_HEAD_BYTES)
#define COP_AGENT_SYNC_BYTES  16u
#define COP_AGENT_SYNCED_MAX  1024u /* payload of a frame that follows the mark */
#define COP_AGENT_OPENING_MAX (COP_AGENT_SYNC_BYTES + COP_AGENT_HEAD_BYTES + COP_AGENT_SYNCED_MAX)
#define COP_AGENT_WINDOW      (256u * 1024) /* first credit of each stream, both ways */
#define COP_AGENT_WINDOW_MAX  (16u * 1024 * 1024)
#define COP_AGENT_MAX_EXECS   256u
#define COP_AGENT_MAX_STRINGS 4096u /* argv and env together, with the two NULLs */
#define COP_AGENT_MAX_PARAMS  64u
#define COP_AGENT_MAX_NICS    16u
#define COP_AGENT_MAX_STEPS   96u
#define COP_AGENT_MAX_TEXT    512u /* bytes of a text that is shown, without its NUL */
#define COP_AGENT_RANDOM      64u

enum cop_agent_type {
	/* host to agent */
	COP_AGENT_HELLO = 1,	 /* after the mark; opens a session */
	COP_AGENT_EXEC = 2,	 /* id: new, chosen by the host, not 0 */
	COP_AGENT_SIGNAL = 3,	 /* id of the exec */
	COP_AGENT_RESIZE = 4,
	COP_AGENT_ABANDON = 5,	 /* kill it; EXIT still follows */
	COP_AGENT_IDENTIFY = 6,
	COP_AGENT_QUIESCE = 7,
	COP_AGENT_THAW = 8,
	COP_AGENT_RESPONSE = 9,	 /* id of the REQUEST */
	COP_AGENT_PING = 10,	 /* empty */
	COP_AGENT_HOLD = 11,
	/* both ways; id of the exec */
	COP_AGENT_DATA = 32,	 /* stream, then bytes, at least one */
	COP_AGENT_EOF = 33,	 /* stream */
	COP_AGENT_CREDIT = 34,	 /* stream, bytes */
	/* agent to host */
	COP_AGENT_READY = 64,	 /* after the mark, session 0: an agent has opened the port */
	COP_AGENT_HELLO_ACK = 65, /* after the mark */
	COP_AGENT_REFUSED = 66,	 /* after the mark: no version in common */
	COP_AGENT_STARTED = 67,	 /* id of the exec */
	COP_AGENT_EXIT = 68,	 /* id of the exec: its last frame */
	COP_AGENT_ERROR = 69,	 /* id of what failed; of an exec: its last frame */
	COP_AGENT_IDENTIFIED = 70,
	COP_AGENT_QUIESCED = 71,
	COP_AGENT_THAWED = 72,
	COP_AGENT_REQUEST = 73,	 /* id: chosen by the agent, not 0 */
	COP_AGENT_PONG = 74,	 /* id of the PING; empty */
	COP_AGENT_HELD = 75,	 /* empty */
};

enum cop_agent_stream {
	COP_AGENT_STDIN = 0,
	COP_AGENT_STDOUT = 1,
	COP_AGENT_STDERR = 2,
};

/* ------------------------------------------------------------------ frames */

struct cop_agent_frame {
	uint32_t session; /* low half of the session's number */
	uint32_t id;
	uint8_t type; /* enum cop_agent_type, or unknown */
	bool synced;  /* followed the mark at once */
	uint32_t len;
	const uint8_t *payload;
};

/* Cuts a byte stream into frames. `scan`: the mark is looked for everywhere, also within frames. */
struct cop_agent_rx {
	bool scan_always; /* the agent's side */
	bool scan;
	bool hunting; /* bytes before the next mark are thrown away */
	bool synced;  /* the next frame follows the mark */
	uint32_t matched; /* bytes of the mark seen */
	uint32_t have;	  /* bytes in buf */
	uint8_t buf[COP_AGENT_FRAME_MAX];
};

/* is_agent: the mark may come at any time. The host looks for it only until it accepts a session. */
void cop_agent_rx_init(struct cop_agent_rx *rx, bool is_agent);
/* Throw everything away up to the next mark. */
void cop_agent_rx_hunt(struct cop_agent_rx *rx);
/* The host: the frame just got opens the session; from now on the mark is data like any other. */
void cop_agent_rx_accept(struct cop_agent_rx *rx);
/* Takes bytes, at most to the end of a frame. 1: *ret holds it, valid until the next call; 0: all
 * bytes are taken and more are needed; -EBADMSG: no frame, and it hunts now. *ret_used: bytes taken. */
int cop_agent_rx_feed(struct cop_agent_rx *rx, const void *data, size_t len, size_t *ret_used,
		      struct cop_agent_frame *ret);

/* How much of data may be the payload of one DATA frame: at most what fits, and short of the mark. At
 * least 1 if len is. */
size_t cop_agent_data_fit(const void *data, size_t len);

/* ---------------------------------------------------------------- messages */
/* Texts end with a NUL within the payload and are borrowed from it. They hold any byte but NUL. */

struct cop_agent_hello { /* up to flags, 24 bytes in every version of the protocol */
	uint64_t session; /* random, its low half not 0 */
	uint16_t proto_min, proto_max;
	uint32_t flags;
	uint8_t random[COP_AGENT_RANDOM]; /* with CLONE only */
};
#define COP_AGENT_HELLO_CLONE 1u /* the host will send IDENTIFY */

struct cop_agent_hello_ack {
	uint64_t session;
	uint16_t proto; /* the one in use */
	uint16_t proto_min, proto_max;
	uint32_t pid;
	const char *version; /* of the agent */
	const char *boot_id;
};

struct cop_agent_refused {
	uint64_t session;
	uint16_t proto_min, proto_max; /* what the agent can do */
	const char *text;
};

#define COP_AGENT_EXEC_TTY 1u
struct cop_agent_exec {
	uint32_t flags;
	uint16_t rows, columns;
	uint32_t timeout_ms;	 /* 0: none */
	uint32_t cpu_percent;	 /* at most so much of one processor's time; 0: no limit */
	uint64_t memory_max;	 /* bytes; 0: no limit */
	const char *user;	 /* "": root */
	const char *cwd;	 /* "": the user's home */
	const char *const *argv; /* NULL at the end; at least one */
	const char *const *env;	 /* "NAME=value"; NULL at the end */
};

#define COP_AGENT_EXIT_TIMEOUT 1u /* killed as its time was over */
struct cop_agent_exit {
	int32_t status; /* 0 to 255, or -1 */
	int32_t signal; /* 1 to 64, or -1; exactly one of both is -1 */
	uint32_t flags;
};

struct cop_agent_error {
	uint32_t code; /* an errno of Linux, not 0 */
	const char *text;
};

struct cop_agent_nic {
	uint8_t index;	/* of the guest's network cards in order, if old is zeros */
	uint8_t old[6]; /* as the template had it, or zeros */
	uint8_t new[6];
};

#define COP_AGENT_IDENTIFY_SSH_KEYS 1u
struct cop_agent_identify {
	uint32_t flags;
	uint32_t index, count;	   /* 0 <= index < count */
	uint32_t hook_timeout_ms;  /* of each hook; not 0 */
	uint32_t net_timeout_ms;   /* of all network cards; not 0 */
	uint64_t wall_ns;	   /* since 1970, when it was sent */
	uint8_t random[COP_AGENT_RANDOM];
	const char *name, *template; /* of the clone; of its template */
	const char *hostname;	   /* "": leave it */
	const char *machine_id;	   /* 32 of [0-9a-f], or "": leave it */
	const char *const *params; /* "key=value"; NULL at the end */
	uint32_t nr_nics;
	struct cop_agent_nic nics[COP_AGENT_MAX_NICS];
};

enum cop_agent_result {
	COP_AGENT_DONE = 0,
	COP_AGENT_SKIPPED = 1,
	COP_AGENT_FAILED = 2,
	COP_AGENT_TIMEOUT = 3,
};

struct cop_agent_step {
	const char *name;
	uint8_t result; /* enum cop_agent_result */
	const char *text;
	uint32_t took_us;
};

struct cop_agent_identified {
	uint32_t nr_steps;
	struct cop_agent_step steps[COP_AGENT_MAX_STEPS];
};

struct cop_agent_quiesced {
	uint32_t nr_frozen; /* file systems */
	const char *text;   /* their mount points */
};

enum cop_agent_request_kind {
	COP_AGENT_REQUEST_FREEZE = 1, /* name: of the template */
	COP_AGENT_REQUEST_FORK = 2,   /* count clones */
	COP_AGENT_REQUEST_INFO = 3,
};

struct cop_agent_request {
	uint8_t kind;
	uint32_t count; /* of fork; else 0 */
	const char *name;
	const char *const *params; /* of fork */
};

enum cop_agent_role {
	COP_AGENT_ROLE_ERROR = 0, /* text: why */
	COP_AGENT_ROLE_PARENT = 1,
	COP_AGENT_ROLE_CLONE = 2,
};

struct cop_agent_response {
	uint8_t role;
	uint32_t index, count;
	const char *text;	   /* of an error; else "" */
	const char *name;	   /* of the VM */
	const char *template;
	const char *const *params; /* fork: the names of the clones as "clone.N=NAME" */
};

/* Encoders: write one whole frame and return its length, or -errno. buf has COP_AGENT_FRAME_MAX bytes,
 * that of the four that put the mark before it COP_AGENT_OPENING_MAX. `session` is the low half. */
ssize_t cop_agent_put_hello(uint8_t *buf, const struct cop_agent_hello *m);
ssize_t cop_agent_put_hello_ack(uint8_t *buf, const struct cop_agent_hello_ack *m);
ssize_t cop_agent_put_refused(uint8_t *buf, const struct cop_agent_refused *m);
ssize_t cop_agent_put_ready(uint8_t *buf);

/* PING, PONG, ABANDON, THAW, THAWED, STARTED, HELD. */
ssize_t cop_agent_put_empty(uint8_t *buf, uint32_t session, uint8_t type, uint32_t id);
/* len: 1 to what cop_agent_data_fit() said. The agent's side need not ask it, but for
 * COP_AGENT_PAYLOAD_MAX - 1. */
ssize_t cop_agent_put_data(uint8_t *buf, uint32_t session, uint32_t id, uint8_t stream,
			   const void *data, size_t len);
ssize_t cop_agent_put_eof(uint8_t *buf, uint32_t session, uint32_t id, uint8_t stream);
ssize_t cop_agent_put_credit(uint8_t *buf, uint32_t session, uint32_t id, uint8_t stream,
			     uint32_t bytes);
ssize_t cop_agent_put_signal(uint8_t *buf, uint32_t session, uint32_t id, uint8_t number);
ssize_t cop_agent_put_resize(uint8_t *buf, uint32_t session, uint32_t id, uint16_t rows,
			     uint16_t columns);
ssize_t cop_agent_put_quiesce(uint8_t *buf, uint32_t session, uint32_t id, uint32_t timeout_ms);
ssize_t cop_agent_put_hold(uint8_t *buf, uint32_t session, uint32_t id, uint32_t timeout_ms);
ssize_t cop_agent_put_exec(uint8_t *buf, uint32_t session, uint32_t id,
			   const struct cop_agent_exec *m);
ssize_t cop_agent_put_exit(uint8_t *buf, uint32_t session, uint32_t id,
			   const struct cop_agent_exit *m);
ssize_t cop_agent_put_error(uint8_t *buf, uint32_t session, uint32_t id, uint32_t code,
			    const char *text);
ssize_t cop_agent_put_identify(uint8_t *buf, uint32_t session, uint32_t id,
			       const struct cop_agent_identify *m);
ssize_t cop_agent_put_identified(uint8_t *buf, uint32_t session, uint32_t id,
				 const struct cop_agent_identified *m);
ssize_t cop_agent_put_quiesced(uint8_t *buf, uint32_t session, uint32_t id,
			       const struct cop_agent_quiesced *m);
ssize_t cop_agent_put_request(uint8_t *buf, uint32_t session, uint32_t id,
			      const struct cop_agent_request *m);
ssize_t cop_agent_put_response(uint8_t *buf, uint32_t session, uint32_t id,
			       const struct cop_agent_response *m);

/* Decoders: 0, or -EBADMSG with *ret undefined. The whole payload must be the message, every value in its
 * range. They don't look at frame->type. Where lists come, `store` takes their pointers and has
 * COP_AGENT_MAX_STRINGS places; it lives as long as *ret. */
int cop_agent_get_hello(const struct cop_agent_frame *f, struct cop_agent_hello *ret);
int cop_agent_get_hello_ack(const struct cop_agent_frame *f, struct cop_agent_hello_ack *ret);
int cop_agent_get_refused(const struct cop_agent_frame *f, struct cop_agent_refused *ret);
int cop_agent_get_empty(const struct cop_agent_frame *f);
int cop_agent_get_data(const struct cop_agent_frame *f, uint8_t *ret_stream,
		       const uint8_t **ret_data, size_t *ret_len);
int cop_agent_get_eof(const struct cop_agent_frame *f, uint8_t *ret_stream);
/* bytes: 1 to COP_AGENT_WINDOW_MAX. */
int cop_agent_get_credit(const struct cop_agent_frame *f, uint8_t *ret_stream, uint32_t *ret_bytes);
int cop_agent_get_signal(const struct cop_agent_frame *f, uint8_t *ret_number);
int cop_agent_get_resize(const struct cop_agent_frame *f, uint16_t *ret_rows,
			 uint16_t *ret_columns);
/* QUIESCE, HOLD. */
int cop_agent_get_limit(const struct cop_agent_frame *f, uint32_t *ret_timeout_ms);
int cop_agent_get_exec(const struct cop_agent_frame *f, const char **store,
		       struct cop_agent_exec *ret);
int cop_agent_get_exit(const struct cop_agent_frame *f, struct cop_agent_exit *ret);
int cop_agent_get_error(const struct cop_agent_frame *f, struct cop_agent_error *ret);
int cop_agent_get_identify(const struct cop_agent_frame *f, const char **store,
			   struct cop_agent_identify *ret);
int cop_agent_get_identified(const struct cop_agent_frame *f, struct cop_agent_identified *ret);
int cop_agent_get_quiesced(const struct cop_agent_frame *f, struct cop_agent_quiesced *ret);
int cop_agent_get_request(const struct cop_agent_frame *f, const char **store,
			  struct cop_agent_request *ret);
int cop_agent_get_response(const struct cop_agent_frame *f, const char **store,
			   struct cop_agent_response *ret);

#endif
