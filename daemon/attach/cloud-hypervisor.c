/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What Cloud Hypervisor's migration protocol looks like. */
#include "attach/cloud-hypervisor.h"

#include <endian.h>
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "refusal.h"

#define BAD_MESSAGE "io.ufd.handoff.BadMessage"

enum { STATUS_OK = 1, STATUS_ERROR = 2 };

/* How long a payload may be, and of what units. */
static const struct {
	const char *word;
	uint64_t n_least, n_most, n_unit;
} commands[] = {
	[CH_START] = { "Start", 0, 0, 1 },
	[CH_CONFIG] = { "Config", 2, CH_MAX_TEXT, 1 },
	[CH_STATE] = { "State", 1, CH_MAX_TEXT, 1 },
	[CH_MEMORY] = { "Memory", 0, CH_MAX_TABLE, CH_HEAD_BYTES },
	[CH_COMPLETE] = { "Complete", 0, 0, 1 },
	[CH_ABANDON] = { "Abandon", 0, 0, 1 },
	[CH_MEMORY_FD] = { "MemoryFd", CH_SLOT_BYTES, CH_SLOT_BYTES, 1 },
	[CH_COMPLETE_PAUSED] = { "CompletePaused", 0, 0, 1 },
	[CH_PAGE_FAULT] = { "PageFault", CH_HEAD_BYTES, CH_HEAD_BYTES, 1 },
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static uint16_t get_u16(const uint8_t *bytes)
{
	uint16_t value;

	memcpy(&value, bytes, sizeof(value));
	return le16toh(value);
}

static uint64_t get_u64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return le64toh(value);
}

static void put_u16(uint8_t *bytes, uint16_t value)
{
	value = htole16(value);
	memcpy(bytes, &value, sizeof(value));
}

static void put_u64(uint8_t *bytes, uint64_t value)
{
	value = htole64(value);
	memcpy(bytes, &value, sizeof(value));
}

/* ---- requests and responses ---- */

const char *ch_command_word(enum ch_command command)
{
	return command > 0 && command < N_COMMANDS ? commands[command].word : "?";
}

int ch_request_read(const void *bytes, size_t n_bytes, struct ch_request *ret,
		    struct refusal *refusal)
{
	const uint8_t *head = bytes;
	uint64_t n_payload;
	uint16_t command;

	if (n_bytes < CH_HEAD_BYTES)
		return CH_MORE;
	command = get_u16(head);
	n_payload = get_u64(head + 8);
	if (command == 0 || command >= N_COMMANDS)
		return refusal_set(refusal, BAD_MESSAGE, NULL,
				   "%u is no command of Cloud Hypervisor's migration protocol",
				   command);
	if (command == CH_START && get_u16(head + 2) != CH_VERSION)
		return refusal_set(refusal, BAD_MESSAGE, NULL,
				   "Start asks for version %u of Cloud Hypervisor's migration "
				   "protocol, and %d is known",
				   get_u16(head + 2), CH_VERSION);
	if (n_payload < commands[command].n_least || n_payload > commands[command].n_most ||
	    n_payload % commands[command].n_unit)
		return refusal_set(refusal, BAD_MESSAGE, NULL, "%s with %llu bytes",
				   commands[command].word, (unsigned long long)n_payload);
	*ret = (struct ch_request){ .command = command, .n_payload = n_payload };
	return 0;
}

void ch_request_write(const struct ch_request *request, uint8_t ret[static CH_HEAD_BYTES])
{
	memset(ret, 0, CH_HEAD_BYTES);
	put_u16(ret, (uint16_t)request->command);
	if (request->command == CH_START)
		put_u16(ret + 2, CH_VERSION);
	put_u64(ret + 8, request->n_payload);
}

int ch_response_read(const void *bytes, size_t n_bytes, struct ch_response *ret,
		     struct refusal *refusal)
{
	const uint8_t *head = bytes;
	uint16_t status;

	if (n_bytes < CH_HEAD_BYTES)
		return CH_MORE;
	status = get_u16(head);
	if (status != STATUS_OK && status != STATUS_ERROR)
		return refusal_set(refusal, BAD_MESSAGE, NULL, "an answer of status %u", status);
	*ret = (struct ch_response){ .is_ok = status == STATUS_OK, .n_payload = get_u64(head + 8) };
	return 0;
}

void ch_response_write(const struct ch_response *response, uint8_t ret[static CH_HEAD_BYTES])
{
	memset(ret, 0, CH_HEAD_BYTES);
	put_u16(ret, response->is_ok ? STATUS_OK : STATUS_ERROR);
	put_u64(ret + 8, response->n_payload);
}

struct ch_range ch_range_read(const uint8_t bytes[static CH_HEAD_BYTES])
{
	return (struct ch_range){ get_u64(bytes), get_u64(bytes + 8) };
}

void ch_range_write(const struct ch_range *range, uint8_t ret[static CH_HEAD_BYTES])
{
	put_u64(ret, range->address);
	put_u64(ret + 8, range->length_bytes);
}

uint32_t ch_slot_read(const uint8_t bytes[static CH_SLOT_BYTES])
{
	uint32_t slot;

	memcpy(&slot, bytes, sizeof(slot));
	return le32toh(slot);
}

void ch_slot_write(uint32_t slot, uint8_t ret[static CH_SLOT_BYTES])
{
	slot = htole32(slot);
	memcpy(ret, &slot, sizeof(slot));
}

void ch_role_write(enum ch_role role, uint8_t ret[static CH_ROLE_BYTES])
{
	put_u16(ret, (uint16_t)role);
}

/* ---- where memory is ---- */

/* Integers are read as reals: one that int64_t cannot hold, anywhere in the text, would spoil all of it. */
static bool get_number(const json_t *object, const char *key, uint64_t *ret)
{
	const json_t *value = json_object_get(object, key);
	double number = json_real_value(value);

	if (!json_is_real(value) || number < 0 || number >= (double)CH_ADDRESS_LIMIT ||
	    number != (double)(uint64_t)number)
		return false;
	*ret = (uint64_t)number;
	return true;
}

/* Return: what is wrong with it; NULL: nothing. */
static const char *mapping_read(const json_t *object, struct ch_mapping *ret)
{
	uint64_t slot;

	if (!get_number(object, "slot", &slot) || slot > UINT32_MAX ||
	    !get_number(object, "gpa", &ret->address) ||
	    !get_number(object, "size", &ret->length_bytes) ||
	    !get_number(object, "file_offset", &ret->file_offset_bytes))
		return "wants slot, gpa, size and file_offset";
	ret->slot = (uint32_t)slot;
	if (ret->length_bytes == 0)
		return "is empty";
	if ((ret->address | ret->length_bytes | ret->file_offset_bytes) % CH_PAGE_BYTES)
		return "is not made of whole pages";
	if (ret->address + ret->length_bytes > CH_ADDRESS_LIMIT ||
	    ret->file_offset_bytes + ret->length_bytes > CH_ADDRESS_LIMIT)
		return "is larger than guest memory can be";
	return NULL;
}

static const char *layout_add(struct ch_layout *layout, const json_t *object)
{
	struct ch_mapping mapping = {};
	const char *wrong = mapping_read(object, &mapping);

	for (size_t i = 0; !wrong && i < layout->n_mappings; i++) {
		const struct ch_mapping *other = &layout->mappings[i];

		if (other->slot == mapping.slot)
			wrong = "has another one's slot";
		else if (mapping.address < other->address + other->length_bytes &&
			 other->address < mapping.address + mapping.length_bytes)
			wrong = "overlaps another one";
	}
	if (!wrong)
		layout->mappings[layout->n_mappings++] = mapping;
	return wrong;
}

static int layout_read(const json_t *root, struct ch_layout *layout, struct refusal *refusal)
{
	const json_t *list = json_object_get(json_object_get(root, "memory_manager_data"),
					     "guest_ram_mappings");
	size_t n = json_array_size(list);

	if (n == 0)
		return refusal_set(refusal, BAD_MESSAGE, NULL,
				   "Config has no memory_manager_data.guest_ram_mappings");
	if (n > CH_MAX_MAPPINGS)
		return refusal_set(refusal, BAD_MESSAGE, NULL,
				   "Config has %zu mappings of guest memory, more than %d", n,
				   CH_MAX_MAPPINGS);
	for (size_t i = 0; i < n; i++) {
		const char *wrong = layout_add(layout, json_array_get(list, i));

		if (wrong)
			return refusal_set(refusal, BAD_MESSAGE, NULL,
					   "Config: guest_ram_mappings[%zu] %s", i, wrong);
	}
	return 0;
}

int ch_layout_read(const char *json, size_t n_json, struct ch_layout *ret, struct refusal *refusal)
{
	struct ch_layout layout = {};
	json_error_t error;
	json_t *root = json_loadb(json, n_json, JSON_DECODE_INT_AS_REAL | JSON_REJECT_DUPLICATES,
				  &error);
	int r;

	if (!root)
		return refusal_set(refusal, BAD_MESSAGE, NULL, "Config is no JSON: %s at byte %d",
				   error.text, error.position);
	r = layout_read(root, &layout, refusal);
	json_decref(root);
	if (r == 0)
		*ret = layout;
	return r;
}

int ch_layout_find(const struct ch_layout *layout, const struct ch_range *range)
{
	for (size_t i = 0; i < layout->n_mappings; i++) {
		const struct ch_mapping *mapping = &layout->mappings[i];

		if (range->address >= mapping->address &&
		    range->length_bytes <= mapping->length_bytes &&
		    range->address - mapping->address <=
			    mapping->length_bytes - range->length_bytes)
			return (int)i;
	}
	return -1;
}

int ch_layout_find_slot(const struct ch_layout *layout, uint32_t slot)
{
	for (size_t i = 0; i < layout->n_mappings; i++)
		if (layout->mappings[i].slot == slot)
			return (int)i;
	return -1;
}
