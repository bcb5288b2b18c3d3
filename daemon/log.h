/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sentences with fields, to the journal or to stderr: never both, never silently nowhere. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* The values are syslog's. */
enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

enum log_switch {
	LOG_SWITCH_DATA = 1 << 0,    /* what the engine tells: faults that are odd, events */
	LOG_SWITCH_CONTROL = 1 << 1, /* connections, calls, replies */
};

/* All optional. */
struct log_fields {
	const char *guest;
	const char *memory;
	const char *message_id; /* of log-ids.h: an administrator must act, or wants to find it */
	int error;		/* negative errno */
};
#define LOG_FIELDS(...) ((struct log_fields){ __VA_ARGS__ })

/* One call in the source. At most LOG_BURST lines in LOG_WINDOW_NS leave it; the next one says how
 * many did not. */
struct log_site {
	_Atomic uint64_t window_ns;
	_Atomic uint32_t n_in_window;
	_Atomic uint32_t n_suppressed;
};
#define LOG_BURST     20
#define LOG_WINDOW_NS UINT64_C(5000000000)

/**
 * log_open() - choose where lines go
 *
 * The journal if $JOURNAL_STREAM says that stderr is its socket, else stderr.
 * Context: main thread, before others start.
 */
void log_open(void);

/* Context: any of these: any thread. */
void log_set_level(enum log_level level);
void log_set_switches(unsigned int switches);
/* "<6>" in front of lines on stderr, for collectors that understand it. */
void log_set_prefix(bool is_wanted);
bool log_is_on(enum log_level level, unsigned int switches);

/* Return: 0, or -EINVAL for an unknown word. */
int log_level_parse(const char *word, enum log_level *ret);
/* One word. */
int log_switch_parse(const char *word, unsigned int *ret);

/* Through the macros below. */
void log_write(struct log_site *site, enum log_level level, unsigned int switches,
	       struct log_fields fields, const char *file, int line, const char *format, ...)
	__attribute__((format(printf, 7, 8)));

#define LOG_AT(level, switches, fields, ...)                                               \
	do {                                                                               \
		static struct log_site _log_site;                                          \
		if (log_is_on(level, switches))                                            \
			log_write(&_log_site, level, switches, fields, __FILE__, __LINE__, \
				  __VA_ARGS__);                                            \
	} while (0)
#define log_error(fields, ...)	      LOG_AT(LOG_LEVEL_ERROR, 0, fields, __VA_ARGS__)
#define log_warning(fields, ...)      LOG_AT(LOG_LEVEL_WARNING, 0, fields, __VA_ARGS__)
#define log_info(fields, ...)	      LOG_AT(LOG_LEVEL_INFO, 0, fields, __VA_ARGS__)
#define log_debug(which, fields, ...) LOG_AT(LOG_LEVEL_DEBUG, which, fields, __VA_ARGS__)
