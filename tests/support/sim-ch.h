/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What both sides of the simulated Cloud Hypervisor know: its migration protocol, version 0, and a guest
 * whose every byte can be told. From the protocol's facts alone; nothing of ufd is in it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_PAGE       4096
#define SIM_N_MAPPINGS 3

enum {
	SIM_START = 1,
	SIM_CONFIG,
	SIM_STATE,
	SIM_MEMORY,
	SIM_COMPLETE,
	SIM_ABANDON,
	SIM_MEMORY_FD,
	SIM_COMPLETE_PAUSED,
	SIM_PAGE_FAULT,
};

struct sim_head {
	uint16_t word; /* command, or status: 1 Ok, 2 Error */
	uint16_t version;
	uint32_t zero;
	uint64_t n_payload;
} __attribute__((packed));

struct sim_range {
	uint64_t gpa;
	uint64_t length;
} __attribute__((packed));

/* Of the guest: two slots in one file, and one in another, with room between them. */
struct sim_mapping {
	uint32_t slot;
	int file; /* 0 or 1 */
	uint64_t gpa;
	uint64_t size;
	uint64_t file_offset;
};
extern const struct sim_mapping sim_mappings[SIM_N_MAPPINGS];

_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What the guest of this seed has at an address: an eighth of a page's words, or the zeros of a page. */
void sim_page(uint64_t seed, uint64_t gpa, uint64_t words[SIM_PAGE / 8]);

/* Owned texts of this seed. */
char *sim_config(uint64_t seed);
char *sim_state(uint64_t seed);

/* Whole, or the program ends. @fd: -1 for none. Return (receiving): false at the end before the first byte. */
void sim_send(int socket, const void *bytes, size_t n_bytes, int fd);
bool sim_receive(int socket, void *bytes, size_t n_bytes, int *ret_fd);

/* A request and its answer's status. */
uint16_t sim_ask(int socket, uint16_t command, const void *payload, size_t n_payload, int fd);

int sim_main_send(const char *path, uint64_t seed, bool is_inline, const char *how);

struct sim_receiver {
	const char *path;
	uint64_t seed;
	bool is_inline;
	bool is_missing_only;	/* as 53.0 does it */
	uint64_t n_before_hold; /* faults answered; then wait for a line on stdin. 0: never */
	const char *how;	/* what goes wrong; NULL: nothing */
};
int sim_main_receive(const struct sim_receiver *receiver);
