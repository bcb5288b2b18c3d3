/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sentences with fields. */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "base/clock.h"

#define MAX_TEXT       1024
#define MAX_FIELDS     8
#define JOURNAL_SOCKET "/run/systemd/journal/socket"

static struct {
	_Atomic int level;
	_Atomic unsigned int switches;
	_Atomic bool has_prefix;
	bool is_journal; /* stderr is the journal's, which then understands prefixes, too */
} settings = { .level = LOG_LEVEL_INFO };

/* Is stderr the stream that the service manager connected to the journal? */
static bool is_stderr_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat info;

	if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2)
		return false;
	return fstat(STDERR_FILENO, &info) == 0 && info.st_dev == device && info.st_ino == inode;
}

void log_open(void)
{
	settings.is_journal = is_stderr_journal();
}

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&settings.level, (int)level, memory_order_relaxed);
}

void log_set_switches(unsigned int switches)
{
	atomic_store_explicit(&settings.switches, switches, memory_order_relaxed);
}

void log_set_prefix(bool is_wanted)
{
	atomic_store_explicit(&settings.has_prefix, is_wanted, memory_order_relaxed);
}

bool log_is_on(enum log_level level, unsigned int switches)
{
	/* A debug switch shows its lines at any level: one need not drown in the others. */
	if (switches & atomic_load_explicit(&settings.switches, memory_order_relaxed))
		return true;
	return (int)level <= atomic_load_explicit(&settings.level, memory_order_relaxed);
}

int log_level_parse(const char *word, enum log_level *ret)
{
	static const struct {
		const char *word;
		enum log_level level;
	} words[] = {
		{ "error", LOG_LEVEL_ERROR },
		{ "warning", LOG_LEVEL_WARNING },
		{ "info", LOG_LEVEL_INFO },
		{ "debug", LOG_LEVEL_DEBUG },
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(word, words[i].word) == 0) {
			*ret = words[i].level;
			return 0;
		}
	return -EINVAL;
}

int log_switch_parse(const char *word, unsigned int *ret)
{
	if (strcmp(word, "data") == 0)
		*ret = LOG_SWITCH_DATA;
	else if (strcmp(word, "control") == 0)
		*ret = LOG_SWITCH_CONTROL;
	else
		return -EINVAL;
	return 0;
}

/*
 * May the site speak? Two threads at the edge of a window may let a line more through; nothing
 * depends on the exact number.
 */
static bool site_may_write(struct log_site *site, uint32_t *ret_n_suppressed)
{
	uint64_t now_ns = clock_now_ns();

	*ret_n_suppressed = 0;
	if (now_ns - atomic_load_explicit(&site->window_ns, memory_order_relaxed) > LOG_WINDOW_NS) {
		atomic_store_explicit(&site->window_ns, now_ns, memory_order_relaxed);
		atomic_store_explicit(&site->n_in_window, 0, memory_order_relaxed);
		*ret_n_suppressed = atomic_exchange_explicit(&site->n_suppressed, 0,
							     memory_order_relaxed);
	}
	if (atomic_fetch_add_explicit(&site->n_in_window, 1, memory_order_relaxed) < LOG_BURST)
		return true;
	atomic_fetch_add_explicit(&site->n_suppressed, 1, memory_order_relaxed);
	return false;
}

/* Return: false if it is not known to have arrived. */
static bool write_journal(enum log_level level, const struct log_fields *fields, const char *file,
			  int line, const char *text)
{
	char texts[MAX_FIELDS][MAX_TEXT + 128];
	struct iovec parts[MAX_FIELDS];
	int n = 0;

#define ADD(...) snprintf(texts[n++], sizeof(texts[0]), __VA_ARGS__)
	if (fields->error)
		ADD("MESSAGE=%s: %s", text, strerror(-fields->error));
	else
		ADD("MESSAGE=%s", text);
	ADD("PRIORITY=%d", level);
	ADD("CODE_FILE=%s", file);
	ADD("CODE_LINE=%d", line);
	if (fields->guest)
		ADD("GUEST=%s", fields->guest);
	if (fields->memory)
		ADD("MEMORY=%s", fields->memory);
	if (fields->message_id)
		ADD("MESSAGE_ID=%s", fields->message_id);
	if (fields->error)
		ADD("ERRNO=%d", -fields->error);
#undef ADD
	for (int i = 0; i < n; i++)
		parts[i] = (struct iovec){ texts[i], strlen(texts[i]) };
	/* sd_journal_sendv() calls it a success when there is no socket. */
	return access(JOURNAL_SOCKET, F_OK) == 0 && sd_journal_sendv(parts, n) == 0;
}

static const char *level_word(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return "error: ";
	case LOG_LEVEL_WARNING:
		return "warning: ";
	case LOG_LEVEL_INFO:
	case LOG_LEVEL_DEBUG:
		break;
	}
	return "";
}

static void write_stderr(enum log_level level, const struct log_fields *fields, const char *text)
{
	char line[MAX_TEXT + 256];
	FILE *stream;
	size_t n;

	/* one write, so that the lines of several threads do not mix */
	stream = fmemopen(line, sizeof(line), "w");
	if (!stream)
		return;
	if (settings.is_journal || atomic_load_explicit(&settings.has_prefix, memory_order_relaxed))
		fprintf(stream, "<%d>", level);
	fprintf(stream, "ufdd: %s%s", level_word(level), text);
	if (fields->error)
		fprintf(stream, ": %s", strerror(-fields->error));
	if (fields->guest)
		fprintf(stream, " GUEST=%s", fields->guest);
	if (fields->memory)
		fprintf(stream, " MEMORY=%s", fields->memory);
	fflush(stream);
	n = (size_t)ftell(stream);
	fclose(stream);
	if (n >= sizeof(line))
		n = sizeof(line) - 1;
	line[n++] = '\n';
	/* a full disk is nobody's news here */
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}

void log_write(struct log_site *site, enum log_level level, unsigned int switches,
	       struct log_fields fields, const char *file, int line, const char *format, ...)
{
	char text[MAX_TEXT];
	uint32_t n_suppressed;
	va_list arguments;
	int saved = errno;
	size_t n;

	if (!site_may_write(site, &n_suppressed)) {
		errno = saved;
		return;
	}
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	n = strlen(text);
	if (n_suppressed)
		snprintf(text + n, sizeof(text) - n, " (%u lines like this were left out)",
			 n_suppressed);
	if (!settings.is_journal || !write_journal(level, &fields, file, line, text))
		write_stderr(level, &fields, text);
	errno = saved;
}
