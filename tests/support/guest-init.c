/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The demo guest's only program: it knows what every page of its memory must hold, and looks. */

/*
 * Started by the kernel as process 1 of an initrd. Settings come on the kernel's command line:
 *
 *	ws_mb=N    working set: stamped with f(page, generation, nonce), incompressible
 *	blank_mb=N pages that are allocated and zero, and stay so
 *	tick_ms=N  pause between two ticks
 *	rate=N     pages of the working set checked, then rewritten, a tick
 *	verify=N   check everything each N ticks; 0: only when told
 *	writers=N  processes that do so side by side, each with its part of the working set; only the first
 *		   one ticks and checks everything of its own, the others say what they find wrong
 *	nonce=S    up to 16 characters, another one for each run; each stamped page begins with it
 *
 * On the serial console it says READY once, then `TICK n`, and after each check of everything
 * `VERIFY n ok pages=P wrong=0` or `VERIFY n bad pages=P wrong=W first=I`. A page found wrong
 * before a rewrite says `WRONG page=I` at once and counts in all later lines. A `v` on the serial
 * input asks for a check of everything.
 *
 * Ticks are numbered, so that whoever restores this guest sees that it went on where it was.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))

struct settings {
	uint64_t ws_mb;
	uint64_t blank_mb;
	uint64_t tick_ms;
	uint64_t rate;
	uint64_t verify;
	uint64_t writers;
	char nonce[17];
};

/* Two words of the nonce, then words of a generator seeded by nonce, page and generation. */
struct page {
	uint64_t words[PAGE_WORDS];
};

struct guest {
	struct settings settings;
	uint64_t nonce[2];
	struct page *pages;    /* the working set */
	uint32_t *generations; /* one for each of them */
	uint64_t n_pages;
	struct page *blanks;
	uint64_t n_blanks;
	uint64_t writer; /* which of them this is */
	uint64_t tick;
	uint64_t random;
	uint64_t n_wrong_before; /* found wrong just before a rewrite */
};

static _Noreturn void give_up(const char *why)
{
	printf("FAILED %s\n", why);
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t page_seed(const struct guest *guest, uint64_t index)
{
	return mix(guest->nonce[0] ^
		   mix(guest->nonce[1] ^ mix(index ^ mix(guest->generations[index]))));
}

/* Two operations a word: under emulation the stamp of a gigabyte is what everybody waits for. */
static uint64_t next_word(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state ^ (*state >> 29);
}

static void page_stamp(const struct guest *guest, uint64_t index)
{
	uint64_t *words = guest->pages[index].words;
	uint64_t state = page_seed(guest, index);

	words[0] = guest->nonce[0];
	words[1] = guest->nonce[1];
	for (size_t i = 2; i < PAGE_WORDS; i++)
		words[i] = next_word(&state);
}

static int page_is_right(const struct guest *guest, uint64_t index)
{
	const volatile uint64_t *words = guest->pages[index].words;
	uint64_t state = page_seed(guest, index);
	uint64_t difference;

	difference = (words[0] ^ guest->nonce[0]) | (words[1] ^ guest->nonce[1]);
	for (size_t i = 2; i < PAGE_WORDS; i++)
		difference |= words[i] ^ next_word(&state);
	return difference == 0;
}

static int blank_is_right(const struct guest *guest, uint64_t index)
{
	const volatile uint64_t *words = guest->blanks[index].words;
	uint64_t sum = 0;

	for (size_t i = 0; i < PAGE_WORDS; i++)
		sum |= words[i];
	return sum == 0;
}

static void verify(struct guest *guest)
{
	uint64_t n_wrong = guest->n_wrong_before;
	uint64_t first = UINT64_MAX;

	for (uint64_t i = 0; i < guest->n_pages; i++)
		if (!page_is_right(guest, i)) {
			n_wrong++;
			first = first < i ? first : i;
		}
	for (uint64_t i = 0; i < guest->n_blanks; i++)
		if (!blank_is_right(guest, i)) {
			n_wrong++;
			first = first < guest->n_pages + i ? first : guest->n_pages + i;
		}

	printf("VERIFY %llu %s pages=%llu wrong=%llu", (unsigned long long)guest->tick,
	       n_wrong ? "bad" : "ok", (unsigned long long)(guest->n_pages + guest->n_blanks),
	       (unsigned long long)n_wrong);
	if (first != UINT64_MAX)
		printf(" first=%llu", (unsigned long long)first);
	printf("\n");
}

static void rewrite_some(struct guest *guest)
{
	for (uint64_t n = 0; n < guest->settings.rate; n++) {
		uint64_t index = mix(guest->random++) % guest->n_pages;

		if (!page_is_right(guest, index)) {
			guest->n_wrong_before++;
			printf("WRONG page=%llu\n", (unsigned long long)index);
		}
		guest->generations[index]++;
		page_stamp(guest, index);
	}
}

/* Sleeps one tick; true if a check of everything was asked for meanwhile. */
static int wait_tick(const struct guest *guest)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	struct timespec pause = { .tv_sec = guest->settings.tick_ms / 1000,
				  .tv_nsec = guest->settings.tick_ms % 1000 * 1000000 };
	char bytes[64];
	ssize_t n;

	nanosleep(&pause, NULL);
	if (guest->writer || poll(&input, 1, 0) <= 0)
		return 0;
	n = read(STDIN_FILENO, bytes, sizeof(bytes));
	return n > 0 && memchr(bytes, 'v', n);
}

static void number_setting(const char *word, const char *name, uint64_t *ret)
{
	size_t length = strlen(name);

	if (!strncmp(word, name, length) && word[length] == '=')
		*ret = strtoull(word + length + 1, NULL, 10);
}

static void settings_read(struct settings *settings)
{
	char line[4096];
	ssize_t n;
	int fd;

	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	fd = open("/proc/cmdline", O_RDONLY);
	n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	if (n < 0)
		give_up("no /proc/cmdline");
	close(fd);
	line[n] = '\0';

	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
		number_setting(word, "ws_mb", &settings->ws_mb);
		number_setting(word, "blank_mb", &settings->blank_mb);
		number_setting(word, "tick_ms", &settings->tick_ms);
		number_setting(word, "rate", &settings->rate);
		number_setting(word, "verify", &settings->verify);
		number_setting(word, "writers", &settings->writers);
		if (!strncmp(word, "nonce=", 6))
			strncpy(settings->nonce, word + 6, sizeof(settings->nonce) - 1);
	}
}

static void *allocate(uint64_t length_bytes)
{
	void *memory = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);

	if (memory == MAP_FAILED)
		give_up("out of memory");
	return memory;
}

/* Returns in each of them. */
static void writers_start(struct guest *guest)
{
	struct settings *settings = &guest->settings;

	for (uint64_t i = 1; i < settings->writers && !guest->writer; i++) {
		pid_t pid = fork();

		if (pid < 0)
			give_up("no more processes");
		if (pid == 0)
			guest->writer = i;
	}
	settings->ws_mb /= settings->writers;
	settings->blank_mb /= settings->writers;
	guest->random = guest->writer << 32;
}

static void guest_start(struct guest *guest)
{
	const struct settings *settings = &guest->settings;

	memcpy(guest->nonce, settings->nonce, sizeof(guest->nonce));
	guest->n_pages = settings->ws_mb * 1024 * 1024 / PAGE_BYTES;
	guest->n_blanks = settings->blank_mb * 1024 * 1024 / PAGE_BYTES;
	guest->pages = allocate(guest->n_pages * PAGE_BYTES);
	guest->generations = allocate(guest->n_pages * sizeof(*guest->generations));
	guest->blanks = allocate(guest->n_blanks * PAGE_BYTES);

	for (uint64_t i = 0; i < guest->n_pages; i++)
		page_stamp(guest, i);
	/* A store gives each a frame of its own; reading alone would show the kernel's one zero
	 * page. */
	for (uint64_t i = 0; i < guest->n_blanks; i++)
		*(volatile uint64_t *)guest->blanks[i].words = 0;
}

/* Bytes as they come: no echo of commands between our own lines. */
static void console_start(void)
{
	struct termios terminal;

	if (!tcgetattr(STDIN_FILENO, &terminal)) {
		cfmakeraw(&terminal);
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
}

int main(void)
{
	static struct guest guest = {
		.settings = { .ws_mb = 64,
			      .blank_mb = 16,
			      .tick_ms = 10,
			      .rate = 50,
			      .writers = 1 },
	};

	console_start();
	settings_read(&guest.settings);
	writers_start(&guest);
	guest_start(&guest);
	if (!guest.writer)
		printf("READY pages=%llu\n", (unsigned long long)(guest.n_pages + guest.n_blanks));

	for (;;) {
		int asked;

		if (!guest.writer)
			printf("TICK %llu\n", (unsigned long long)guest.tick);
		asked = wait_tick(&guest);
		guest.tick++;
		rewrite_some(&guest);
		if (guest.writer)
			continue;
		if (asked || (guest.settings.verify && guest.tick % guest.settings.verify == 0))
			verify(&guest);
	}
}
