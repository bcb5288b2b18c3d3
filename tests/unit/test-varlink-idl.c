/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The interface language: files that are right and wrong, messages that fit and do not. */
#include "wire/idl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/unit.h"
#include "wire/interfaces.h"

static const char text[] =
	"# A test.\n"
	"interface io.ufd.test-1\n"
	"type Point (x: int, y: ?int)\n"
	"type Colour (red, green)\n"
	"method Draw(at: Point, colour: Colour, more: ?[]Point, tags: [string]int,\n"
	"  # nested\n"
	"  box: ?(width: float, fill: bool), any: ?object, name: string) -> (n: int)\n"
	"method Nothing() -> ()\n"
	"error Broken (why: string)\n";

static struct idl *parsed(void)
{
	struct idl *idl = NULL;

	ck_assert_int_eq(idl_parse(&idl, text, NULL), 0);
	return idl;
}

static const struct {
	const char *what;
	const char *text;
	unsigned int line;
} broken[] = {
	{ "nothing", "", 1 },
	{ "no interface", "method A() -> ()", 1 },
	{ "no name", "interface", 1 },
	{ "an unknown keyword", "interface a.b\n\nmethid A() -> ()", 3 },
	{ "no output", "interface a.b\nmethod A()", 2 },
	{ "an open bracket", "interface a.b\nmethod A(a: int -> ()", 2 },
	{ "a field without a type in a struct", "interface a.b\ntype A (a: int, b)", 2 },
	{ "a field with a type in an enum", "interface a.b\ntype A (a, b: int)", 2 },
	{ "a type that is not there", "interface a.b\nmethod A(a: B) -> ()\n", 3 },
	{ "a type that is not there, in a reply", "interface a.b\nmethod A() -> (a: []?B)", 2 },
	{ "a name that begins with a digit", "interface a.b\ntype 1A (a: int)", 2 },
	{ "no type", "interface a.b\nerror A (a: )", 2 },
	{ "types nested too deep",
	  "interface a.b\nerror A (a: ?????????????????????????????????????int)", 2 },
};

START_TEST(a_broken_file_is_refused_with_its_line)
{
	struct idl *idl = NULL;
	unsigned int line = 0;

	ck_assert_msg(idl_parse(&idl, broken[_i].text, &line) == -EINVAL, "%s", broken[_i].what);
	ck_assert_ptr_null(idl);
	ck_assert_msg(line == broken[_i].line, "%s: line %u", broken[_i].what, line);
}
END_TEST

START_TEST(names_are_listed_in_order)
{
	_cleanup_(idl_freep) struct idl *idl = parsed();

	ck_assert_str_eq(idl_name(idl), "io.ufd.test-1");
	ck_assert_str_eq(idl_method(idl, 0), "Draw");
	ck_assert_str_eq(idl_method(idl, 1), "Nothing");
	ck_assert_ptr_null(idl_method(idl, 2));
	ck_assert_str_eq(idl_error(idl, 0), "Broken");
	ck_assert_ptr_null(idl_error(idl, 1));
}
END_TEST

#define BASE "\"at\":{\"x\":1},\"colour\":\"red\",\"tags\":{\"a\":1},\"name\":\"n\""
static const struct {
	const char *member;
	enum idl_part part;
	const char *json; /* NULL: no parameters */
	int outcome;
	const char *field;
} messages[] = {
	{ "Draw", IDL_INPUT, "{" BASE "}", 0, NULL },
	{ "Draw", IDL_INPUT, "{" BASE ",\"more\":null}", 0, NULL },
	{ "Draw", IDL_INPUT, "{" BASE ",\"more\":[{\"x\":1,\"y\":2},{\"x\":3,\"y\":null}]}", 0,
	  NULL },
	{ "Draw", IDL_INPUT, "{" BASE ",\"box\":{\"width\":1,\"fill\":true}}", 0, NULL },
	{ "Draw", IDL_INPUT, "{" BASE ",\"any\":{\"a\":[1,\"b\"]}}", 0, NULL },
	{ "Draw", IDL_INPUT, "{" BASE ",\"colou\":1}", IDL_UNKNOWN, "colou" },
	{ "Draw", IDL_INPUT, "{" BASE ",\"more\":[{\"x\":1,\"z\":2}]}", IDL_WRONG, "more" },
	{ "Draw", IDL_INPUT, "{" BASE ",\"more\":{}}", IDL_WRONG, "more" },
	{ "Draw", IDL_INPUT, "{" BASE ",\"box\":{\"width\":1}}", IDL_WRONG, "box" },
	{ "Draw", IDL_INPUT, "{" BASE ",\"box\":{\"width\":\"1\",\"fill\":true}}", IDL_WRONG,
	  "box" },
	{ "Draw", IDL_INPUT, "{" BASE ",\"box\":{\"width\":1,\"fill\":1}}", IDL_WRONG, "box" },
	{ "Draw", IDL_INPUT, "{" BASE ",\"any\":[]}", IDL_WRONG, "any" },
	{ "Draw", IDL_INPUT, "{\"at\":{\"x\":1},\"colour\":\"blue\",\"tags\":{},\"name\":\"n\"}",
	  IDL_WRONG, "colour" },
	{ "Draw", IDL_INPUT, "{\"at\":{\"x\":1},\"colour\":1,\"tags\":{},\"name\":\"n\"}",
	  IDL_WRONG, "colour" },
	{ "Draw", IDL_INPUT, "{\"at\":{\"x\":1.0},\"colour\":\"red\",\"tags\":{},\"name\":\"n\"}",
	  IDL_WRONG, "at" },
	{ "Draw", IDL_INPUT,
	  "{\"at\":{\"x\":1},\"colour\":\"red\",\"tags\":{\"a\":\"1\"},\"name\":\"n\"}", IDL_WRONG,
	  "tags" },
	{ "Draw", IDL_INPUT, "{\"at\":{\"x\":1},\"colour\":\"red\",\"tags\":{},\"name\":1}",
	  IDL_WRONG, "name" },
	{ "Draw", IDL_INPUT, "{\"at\":{\"x\":1},\"colour\":\"red\",\"tags\":{}}", IDL_MISSING,
	  "name" },
	{ "Draw", IDL_INPUT, "{\"at\":{\"y\":1},\"colour\":\"red\",\"tags\":{},\"name\":\"n\"}",
	  IDL_WRONG, "at" },
	{ "Draw", IDL_INPUT, NULL, IDL_MISSING, "at" },
	{ "Draw", IDL_OUTPUT, "{\"n\":-1}", 0, NULL },
	{ "Draw", IDL_OUTPUT, "{\"n\":null}", IDL_WRONG, "n" },
	{ "Nothing", IDL_INPUT, NULL, 0, NULL },
	{ "Nothing", IDL_INPUT, "{\"a\":1}", IDL_UNKNOWN, "a" },
	{ "Broken", IDL_ERROR, "{\"why\":\"b\"}", 0, NULL },
	{ "Broken", IDL_ERROR, "{}", IDL_MISSING, "why" },
	{ "Broken", IDL_INPUT, "{}", IDL_NO_MEMBER, NULL },
	{ "draw", IDL_INPUT, "{}", IDL_NO_MEMBER, NULL },
};

START_TEST(a_message_fits_or_its_field_is_named)
{
	_cleanup_(idl_freep) struct idl *idl = parsed();
	json_t *json = messages[_i].json ? json_loads(messages[_i].json, 0, NULL) : NULL;
	const char *field = "unset";

	ck_assert((json != NULL) == (messages[_i].json != NULL));
	ck_assert_int_eq(idl_check(idl, messages[_i].member, messages[_i].part, json, &field),
			 messages[_i].outcome);
	ck_assert_pstr_eq(field, messages[_i].field);
	json_decref(json);
}
END_TEST

START_TEST(our_own_files_are_sound)
{
	_cleanup_(idl_freep) struct idl *idl = NULL;
	unsigned int line = 0;

	ck_assert_msg(idl_parse(&idl, wire_interfaces[_i].text, &line) == 0, "%s:%u",
		      wire_interfaces[_i].name, line);
	ck_assert_str_eq(idl_name(idl), wire_interfaces[_i].name);
	ck_assert_ptr_nonnull(idl_method(idl, 0));
	ck_assert_ptr_eq(wire_interface_find(wire_interfaces[_i].name), &wire_interfaces[_i]);
	ck_assert_ptr_null(wire_interface_find("io.ufd"));
}
END_TEST

/* The installed file and the text that a client gets are one. */
START_TEST(the_embedded_text_is_the_file)
{
	char path[4096], bytes[65536];
	size_t n;
	FILE *file;

	snprintf(path, sizeof(path), "%s/lib/wire/%s.varlink", getenv("SOURCE_ROOT"),
		 wire_interfaces[_i].name);
	file = fopen(path, "re");
	ck_assert_msg(file, "%s", path);
	n = fread(bytes, 1, sizeof(bytes) - 1, file);
	fclose(file);
	bytes[n] = '\0';
	ck_assert_str_eq(bytes, wire_interfaces[_i].text);
}
END_TEST

int main(void)
{
	return unit_run(
		"varlink-idl",
		(struct unit_test[]){
			UNIT_TABLE(a_broken_file_is_refused_with_its_line, broken),
			UNIT(names_are_listed_in_order),
			UNIT_TABLE(a_message_fits_or_its_field_is_named, messages),
			{ "our_own_files_are_sound", our_own_files_are_sound, 3 },
			{ "the_embedded_text_is_the_file", the_embedded_text_is_the_file, 3 },
			{},
		});
}
