/* SPDX-License-Identifier: MIT */
/*
 * agent.h: messages between the daemon and the agent in a guest. docs/formats/agent.md describes
 * them.
 *
 * Pure functions over memory of the caller: nothing is allocated, read or written elsewhere. The
 * host reads a guest's bytes with them, so whatever they are given they stay inside it and inside
 * the limits below. Same code on both sides; libc only, static in the guest.
 *
 * Reading: cop_agent_scan() finds frames in bytes; a message is the payload of one frame, or of
 * several joined by the flag MORE (struct cop_agent_join); a cop_agent_get_...() takes a payload
 * apart. Strings in what it returns point into the payload and end with a NUL.
 * Writing: cop_agent_put_...() makes a payload in a struct cop_agent_buf; cop_agent_frame_put()
 * makes frames of it.
 */
#ifndef COP_PROTO_AGENT_H
#define COP_PROTO_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COP_AGENT_PORT	      "org.coppice.agent.0"
#define COP_AGENT_MAGIC	      0x54474143u /* the bytes "CAGT" */
#define COP_AGENT_VERSION     1 /* the newest that this code speaks */
#define COP_AGENT_VERSION_MIN 1 /* the oldest */

#define COP_AGENT_HEAD_BYTES	28
#define COP_AGENT_TAIL_BYTES	4
#define COP_AGENT_PAYLOAD_BYTES 16384u /* at most, of one frame */
#define COP_AGENT_FRAME_MAX	(COP_AGENT_HEAD_BYTES + COP_AGENT_PAYLOAD_BYTES + COP_AGENT_TAIL_BYTES)
/* Zero bytes before a HELLO: more than any frame that was cut off still lacks. */
#define COP_AGENT_SYNC_BYTES	COP_AGENT_FRAME_MAX

#define COP_AGENT_MESSAGE_BYTES 262144u /* at most, of joined frames */
#define COP_AGENT_MAX_RUNS	256	/* commands at once */
#define COP_AGENT_MAX_REQUESTS	16	/* requests of the guest at once */
#define COP_AGENT_MAX_WORDS	8192	/* in argv; in env */
#define COP_AGENT_MAX_PARAMS	64
#define COP_AGENT_MAX_NICS	16
#define COP_AGENT_MAX_STEPS	128
#define COP_AGENT_KEY_BYTES	63   /* at most, without the NUL; likewise below */
#define COP_AGENT_VALUE_BYTES	1024
#define COP_AGENT_NAME_BYTES	255  /* host name, template, step, user */
#define COP_AGENT_TEXT_BYTES	255  /* explanations */
#define COP_AGENT_PATH_BYTES	4095
#define COP_AGENT_RANDOM_BYTES	64
#define COP_AGENT_FORKS_MAX	1024 /* clones in one request */
/* What a side may have out at most in one direction of one stream. */
#define COP_AGENT_CREDIT_MAX	(1u << 20)

enum cop_agent_type {
	COP_AGENT_T_HELLO = 1,	     /* > host to guest; stream 0 */
	COP_AGENT_T_HELLO_ACK = 2,   /* < guest to host; stream 0 */
	COP_AGENT_T_START = 3,	     /* < an agent has just begun; session 0, no HELLO was seen */
	COP_AGENT_T_PING = 4,	     /* > any payload up to 64 bytes */
	COP_AGENT_T_PONG = 5,	     /* < the same bytes */
	COP_AGENT_T_IDENTIFY = 6,    /* > */
	COP_AGENT_T_IDENTIFIED = 7,  /* < */
	COP_AGENT_T_QUIESCE = 8,     /* > */
	COP_AGENT_T_QUIESCED = 9,    /* < struct cop_agent_result */
	COP_AGENT_T_THAW = 10,	     /* > empty */
	COP_AGENT_T_THAWED = 11,     /* < struct cop_agent_result */
	COP_AGENT_T_EXEC = 16,	     /* > stream: a new number, not 0, chosen by the host */
	COP_AGENT_T_STARTED = 17,    /* < empty: the process is there */
	COP_AGENT_T_STDIN = 18,	     /* > raw bytes; empty: the end */
	COP_AGENT_T_STDOUT = 19,     /* < raw bytes, never empty; a terminal's come here */
	COP_AGENT_T_STDERR = 20,     /* < likewise */
	COP_AGENT_T_CREDIT = 21,     /* <> so many more bytes may be sent */
	COP_AGENT_T_SIGNAL = 22,     /* > to the command's process group */
	COP_AGENT_T_RESIZE = 23,     /* > */
	COP_AGENT_T_KILL = 24,	     /* > empty: kill it, output is of no interest; EXIT follows */
	COP_AGENT_T_EXIT = 25,	     /* < the stream's last frame, exactly one for each EXEC */
	COP_AGENT_T_REQUEST = 32,    /* < stream: a number of the guest's; freeze or fork me */
	COP_AGENT_T_REPLY = 33,	     /* > to it, in the parent only; a clone's is its IDENTIFY */
};

enum cop_agent_frame_flag {
	COP_AGENT_F_MORE = 1 << 0, /* the next frame, of this type and stream, continues this message */
};

/* ---- memory to write payloads to */

struct cop_agent_buf {
	uint8_t *data;
	size_t cap_bytes, len_bytes;
	bool overflow; /* something did not fit, or broke a limit; nothing of it was written */
};

/* ---- frames */

struct cop_agent_frame {
	uint16_t type, flags;
	uint32_t stream;
	uint64_t session;
	const uint8_t *payload; /* in the scanned bytes */
	uint32_t len_bytes;
	bool after_sync; /* COP_AGENT_PAYLOAD_BYTES zeros or more stood directly before it */
};

/* State of reading one direction; all zeros at first. */
struct cop_agent_scanner {
	uint32_t zeros;	      /* in a row, up to here; stops counting at 2 * SYNC */
	uint64_t noise_bytes; /* all that was no frame */
};

/*
 * Find the next frame in @data of @len_bytes. Returns 1 and fills *@ret, or 0 when it takes more
 * bytes than there are. Either way *@ret_used is what is used up: noise, and the frame. Call
 * again until 0; keep the rest (less than COP_AGENT_FRAME_MAX) in front of what comes next.
 * HELLO is returned with after_sync as it is: an agent must drop one without it.
 */
int cop_agent_scan(struct cop_agent_scanner *scanner, const uint8_t *data, size_t len_bytes,
		   size_t *ret_used, struct cop_agent_frame *ret);

/*
 * Append @payload (may be NULL when @len_bytes is 0) as one frame, or as several with MORE when it
 * is longer than COP_AGENT_PAYLOAD_BYTES (at most COP_AGENT_MESSAGE_BYTES). Needs
 * cop_agent_frames_bytes(@len_bytes) of room, else sets overflow.
 */
void cop_agent_frame_put(struct cop_agent_buf *buf, uint16_t type, uint64_t session,
			 uint32_t stream, const void *payload, size_t len_bytes);
size_t cop_agent_frames_bytes(size_t payload_bytes);
/* Write head and tail around a payload that is already at @frame + COP_AGENT_HEAD_BYTES; returns
 * the frame's length. @len_bytes at most COP_AGENT_PAYLOAD_BYTES. For output without a copy. */
size_t cop_agent_frame_wrap(uint8_t *frame, uint16_t type, uint64_t session, uint32_t stream,
			    size_t len_bytes);
/* Append COP_AGENT_SYNC_BYTES zeros, as they stand before a HELLO. */
void cop_agent_sync_put(struct cop_agent_buf *buf);

/* Joining of frames to messages. Caller gives data of cap_bytes (COP_AGENT_MESSAGE_BYTES). */
struct cop_agent_join {
	uint8_t *data;
	size_t cap_bytes, len_bytes;
	uint32_t stream;
	uint16_t type;
	bool open; /* a message has begun */
};

/*
 * Take a frame. Returns 1: a message is complete, in *@ret_payload and *@ret_len_bytes (in the
 * frame, or in join->data; until the next call); 0: more frames are to come; -EPROTO: a message
 * is interrupted by another; -EMSGSIZE: it is too long. After an error the session should end.
 */
int cop_agent_join(struct cop_agent_join *join, const struct cop_agent_frame *frame,
		   const uint8_t **ret_payload, size_t *ret_len_bytes);

/* ---- payloads. Each _get returns 0, or -EBADMSG when the payload is not exactly such a message
 * within the limits (HELLO, HELLO_ACK and START may be longer: later versions add to them). */

/* A row of strings in a payload. */
struct cop_agent_words {
	const char *at;
	unsigned nr;
};

/* The next string, NULL after the last. */
const char *cop_agent_words_next(struct cop_agent_words *words);

enum cop_agent_hello_flag {
	/* An IDENTIFY comes next: this may be a clone. Requests that wait in the guest go on waiting
	 * for it, instead of failing as after a restart of the host's side. */
	COP_AGENT_HELLO_CLONE = 1 << 0,
	/* Commands of the session before are not killed; nobody is attached to them any more. */
	COP_AGENT_HELLO_KEEP = 1 << 1,
};

struct cop_agent_hello {
	uint32_t version_min, version_max; /* that the host speaks */
	uint32_t flags;			   /* enum cop_agent_hello_flag */
};

struct cop_agent_hello_ack {
	uint32_t version;		   /* chosen: the highest of both; 0: there is none */
	uint32_t version_min, version_max; /* that the agent speaks */
	uint32_t max_runs;		   /* commands at once */
	uint32_t runs;			   /* of earlier sessions that still run (KEEP) */
	const char *program;		   /* the agent's own version, for people */
};

enum cop_agent_identify_flag {
	COP_AGENT_SSH_HOST_KEYS = 1 << 0, /* make new ones */
	COP_AGENT_NO_HOOKS = 1 << 1,
};

struct cop_agent_nic {
	uint8_t mac[6];
};

struct cop_agent_identity {
	uint32_t flags;		  /* enum cop_agent_identify_flag */
	uint32_t index, count;	  /* of the clones that were started together; index from 0 */
	uint32_t hook_timeout_ms; /* for each hook and helper; 0: the agent's choice */
	uint64_t wall_ns;	  /* CLOCK_REALTIME now; 0: leave the clock alone */
	uint8_t random[COP_AGENT_RANDOM_BYTES];
	uint8_t machine_id[16]; /* zeros: leave it */
	uint32_t nr_nics;	/* first network card first; zeros: leave it, but renew its address */
	struct cop_agent_nic nics[COP_AGENT_MAX_NICS];
	const char *name;	  /* the clone's, as in ps */
	const char *hostname;	  /* "": leave it */
	const char *template_name;
	struct cop_agent_words params; /* key, value, key, value... */
};

enum cop_agent_status {
	COP_AGENT_DONE = 0,
	COP_AGENT_SKIPPED = 1,
	COP_AGENT_NOT_DONE = 2, /* it failed; text says why */
	COP_AGENT_TIMED_OUT = 3,
};

/* One step of becoming a clone: "random", "clock", "hostname", "machine-id", "network eth0",
 * "ssh-host-keys", "hook 10-mine", and so on. */
struct cop_agent_step {
	uint32_t status; /* enum cop_agent_status */
	uint32_t time_us;
	const char *name;
	const char *text; /* "" when there is nothing to say; may hold any bytes of a hook */
};

struct cop_agent_steps { /* of IDENTIFIED; read with cop_agent_steps_next() */
	const uint8_t *at, *end;
	unsigned nr;
};

struct cop_agent_quiesce {
	uint32_t timeout_ms; /* to get there; then it is given up */
	uint32_t hold_ms;    /* the guest thaws by itself after that; 1 to 600000 */
};

struct cop_agent_result {
	uint32_t status; /* enum cop_agent_status */
	uint32_t number; /* file systems frozen, or thawed */
	const char *text;
};

enum cop_agent_exec_flag {
	COP_AGENT_EXEC_TTY = 1 << 0,
	COP_AGENT_EXEC_STDIN = 1 << 1, /* without it stdin is /dev/null */
	COP_AGENT_EXEC_CLEAR_ENV = 1 << 2, /* env is all there is; else it adds to the agent's own */
};

struct cop_agent_command {
	uint32_t flags;	     /* enum cop_agent_exec_flag */
	uint32_t timeout_ms; /* 0: none */
	uint32_t credit;     /* bytes of output, both streams together, that may be sent at first */
	uint16_t rows, columns;
	const char *user; /* name or number; "": root */
	const char *cwd;  /* "": the user's home */
	struct cop_agent_words argv, env; /* argv: 1 or more; env: NAME=VALUE */
};

enum cop_agent_exit_kind {
	COP_AGENT_EXIT_STATUS = 0,  /* value: 0 to 255 */
	COP_AGENT_EXIT_SIGNAL = 1,  /* value: its number */
	COP_AGENT_EXIT_FAILED = 2,  /* it was never started; value: errno, text why */
	COP_AGENT_EXIT_TIMEOUT = 3, /* its time was over, it was killed */
};

struct cop_agent_exit {
	uint32_t kind;
	uint32_t value;
	const char *text;
};

enum cop_agent_request_kind {
	COP_AGENT_FREEZE = 1, /* make a template of me */
	COP_AGENT_FORK = 2,   /* and start count clones */
};

struct cop_agent_request {
	uint32_t kind;
	uint32_t count;	  /* fork: 1 to COP_AGENT_FORKS_MAX; freeze: 0 */
	const char *name; /* freeze: the template's; fork: "" or what clones are called after */
	struct cop_agent_words params;
};

struct cop_agent_reply {
	uint32_t status;     /* enum cop_agent_status; not done: text says why */
	uint32_t count;	     /* clones that were started */
	const char *text;    /* why not */
	const char *name;    /* of the VM that asked */
	struct cop_agent_words names; /* of the clones, index 0 first; nr is count */
};

int cop_agent_hello_get(const void *data, size_t len_bytes, struct cop_agent_hello *ret);
/* Also of START, whose version, max_runs and runs are 0. */
int cop_agent_hello_ack_get(const void *data, size_t len_bytes, struct cop_agent_hello_ack *ret);
int cop_agent_identity_get(const void *data, size_t len_bytes, struct cop_agent_identity *ret);
/* Checks all steps; then cop_agent_steps_next() can't fail. */
int cop_agent_identified_get(const void *data, size_t len_bytes, struct cop_agent_steps *ret);
bool cop_agent_steps_next(struct cop_agent_steps *steps, struct cop_agent_step *ret);
int cop_agent_quiesce_get(const void *data, size_t len_bytes, struct cop_agent_quiesce *ret);
int cop_agent_result_get(const void *data, size_t len_bytes, struct cop_agent_result *ret);
int cop_agent_command_get(const void *data, size_t len_bytes, struct cop_agent_command *ret);
/* Of CREDIT and SIGNAL: 1 to COP_AGENT_CREDIT_MAX, 1 to 64. */
int cop_agent_credit_get(const void *data, size_t len_bytes, uint32_t *ret);
int cop_agent_signal_get(const void *data, size_t len_bytes, uint32_t *ret);
int cop_agent_resize_get(const void *data, size_t len_bytes, uint16_t *ret_rows,
			 uint16_t *ret_columns);
int cop_agent_exit_get(const void *data, size_t len_bytes, struct cop_agent_exit *ret);
int cop_agent_request_get(const void *data, size_t len_bytes, struct cop_agent_request *ret);
int cop_agent_reply_get(const void *data, size_t len_bytes, struct cop_agent_reply *ret);

/* A wrong or too long field sets buf->overflow: look at it once at the end. */
void cop_agent_put_u32(struct cop_agent_buf *buf, uint32_t value);
/* A string; NULL is "". One with more than @max_bytes sets overflow. */
void cop_agent_put_string(struct cop_agent_buf *buf, const char *text, size_t max_bytes);

void cop_agent_hello_put(struct cop_agent_buf *buf, const struct cop_agent_hello *hello);
void cop_agent_hello_ack_put(struct cop_agent_buf *buf, const struct cop_agent_hello_ack *ack);
/* Strings in rows are given as NULL-terminated arrays; members of type cop_agent_words are not
 * looked at. @params: key, value, key, value, NULL. NULL is an empty row. */
void cop_agent_identity_put(struct cop_agent_buf *buf, const struct cop_agent_identity *identity,
			    const char *const *params);
/* The number of steps first, then each. */
void cop_agent_step_put(struct cop_agent_buf *buf, const struct cop_agent_step *step);
void cop_agent_quiesce_put(struct cop_agent_buf *buf, const struct cop_agent_quiesce *quiesce);
void cop_agent_result_put(struct cop_agent_buf *buf, const struct cop_agent_result *result);
void cop_agent_command_put(struct cop_agent_buf *buf, const struct cop_agent_command *command,
			   const char *const *argv, const char *const *env);
void cop_agent_resize_put(struct cop_agent_buf *buf, uint16_t rows, uint16_t columns);
void cop_agent_exit_put(struct cop_agent_buf *buf, const struct cop_agent_exit *ended);
void cop_agent_request_put(struct cop_agent_buf *buf, const struct cop_agent_request *request,
			   const char *const *params);
void cop_agent_reply_put(struct cop_agent_buf *buf, const struct cop_agent_reply *reply,
			 const char *const *names);

#endif
