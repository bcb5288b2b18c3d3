/* SPDX-License-Identifier: MIT */
/*
 * Varlink's interface language.
 *
 * Theory of operation: the interface files are the contract, so they are what messages are checked
 * against: one recursive-descent parser builds a tree of types once at start, and one walk compares
 * a JSON value with it. Methods behind it read fields without asking for their type again.
 * A file is trusted (it is part of the program), messages are not.
 */
#include "wire/idl.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define MAX_NESTING 32

enum type_kind {
	TYPE_BOOL,
	TYPE_INT,
	TYPE_FLOAT,
	TYPE_STRING,
	TYPE_OBJECT,
	TYPE_STRUCT, /* fields have types */
	TYPE_ENUM,   /* fields have none: a string out of a list */
	TYPE_NAMED,
	TYPE_ARRAY,
	TYPE_MAP,
	TYPE_MAYBE,
};

struct type;

struct field {
	char *name;	   /* owned */
	struct type *type; /* owned; NULL in an enum */
	struct field *next;
};

struct type {
	enum type_kind kind;
	char *name;	      /* owned; of a named type */
	struct type *element; /* owned; of array, map, maybe */
	struct field *fields; /* owned list; of struct and enum */
};

enum member_kind {
	MEMBER_TYPE,
	MEMBER_METHOD,
	MEMBER_ERROR,
};

struct member {
	enum member_kind kind;
	char *name;	     /* owned */
	struct type *input;  /* owned; the type, a method's parameters, or an error's */
	struct type *output; /* owned; methods only */
	struct member *next;
};

struct idl {
	char *name;		/* owned */
	struct member *members; /* owned list, in the file's order */
};

struct parser {
	const char *at;
	unsigned int line;
	unsigned int depth;
};

static int parse_type(struct parser *parser, struct type **ret);

static struct type *type_free(struct type *type)
{
	if (!type)
		return NULL;
	while (type->fields) {
		struct field *field = type->fields;

		type->fields = field->next;
		type_free(field->type);
		free(field->name);
		free(field);
	}
	type_free(type->element);
	free(type->name);
	free(type);
	return NULL;
}
DEFINE_CLEANUP(struct type, type_free)

static struct member *member_free(struct member *member)
{
	if (!member)
		return NULL;
	type_free(member->input);
	type_free(member->output);
	free(member->name);
	free(member);
	return NULL;
}
DEFINE_CLEANUP(struct member, member_free)

struct idl *idl_free(struct idl *idl)
{
	if (!idl)
		return NULL;
	while (idl->members) {
		struct member *member = idl->members;

		idl->members = member->next;
		member_free(member);
	}
	free(idl->name);
	free(idl);
	return NULL;
}

/* Past white space and comments. */
static void skip_space(struct parser *parser)
{
	for (;; parser->at++) {
		if (*parser->at == '#')
			parser->at += strcspn(parser->at, "\n");
		if (*parser->at == '\n')
			parser->line++;
		if (!*parser->at || !isspace((unsigned char)*parser->at))
			return;
	}
}

static bool take(struct parser *parser, const char *token)
{
	skip_space(parser);
	if (strncmp(parser->at, token, strlen(token)) != 0)
		return false;
	parser->at += strlen(token);
	return true;
}

/* A keyword ends where its letters end. */
static bool take_word(struct parser *parser, const char *word)
{
	skip_space(parser);
	if (strncmp(parser->at, word, strlen(word)) != 0 ||
	    isalnum((unsigned char)parser->at[strlen(word)]) || parser->at[strlen(word)] == '_')
		return false;
	parser->at += strlen(word);
	return true;
}

static int take_name(struct parser *parser, const char *more, char **ret)
{
	size_t n = 0;

	skip_space(parser);
	while (isalnum((unsigned char)parser->at[n]) ||
	       (parser->at[n] && strchr(more, parser->at[n])))
		n++;
	if (n == 0 || !isalpha((unsigned char)parser->at[0]))
		return -EINVAL;
	*ret = strndup(parser->at, n);
	if (!*ret)
		return -ENOMEM;
	parser->at += n;
	return 0;
}

/* `name: type` of a struct, or `name` of an enum; appended at @tail. */
static int parse_field(struct parser *parser, struct type *type, struct field **tail)
{
	struct field *field = calloc(1, sizeof(*field));
	bool has_type;
	int r;

	if (!field)
		return -ENOMEM;
	*tail = field;
	r = take_name(parser, "_", &field->name);
	if (r < 0)
		return r;
	has_type = take(parser, ":");
	if (field == type->fields)
		type->kind = has_type ? TYPE_STRUCT : TYPE_ENUM;
	else if ((type->kind == TYPE_STRUCT) != has_type)
		return -EINVAL;
	return has_type ? parse_type(parser, &field->type) : 0;
}

/* `( … )`, its opening bracket included. */
static int parse_struct(struct parser *parser, struct type **ret)
{
	_cleanup_(type_freep) struct type *type = calloc(1, sizeof(*type));
	struct field **tail;
	int r;

	if (!type)
		return -ENOMEM;
	type->kind = TYPE_STRUCT;
	if (!take(parser, "("))
		return -EINVAL;
	tail = &type->fields;
	if (!take(parser, ")")) {
		do {
			r = parse_field(parser, type, tail);
			if (r < 0)
				return r;
			tail = &(*tail)->next;
		} while (take(parser, ","));
		if (!take(parser, ")"))
			return -EINVAL;
	}
	*ret = TAKE_PTR(type);
	return 0;
}

static int parse_plain_type(struct parser *parser, struct type *type)
{
	static const struct {
		const char *word;
		enum type_kind kind;
	} words[] = {
		{ "bool", TYPE_BOOL },	   { "int", TYPE_INT },	      { "float", TYPE_FLOAT },
		{ "string", TYPE_STRING }, { "object", TYPE_OBJECT },
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (take_word(parser, words[i].word)) {
			type->kind = words[i].kind;
			return 0;
		}
	type->kind = TYPE_NAMED;
	return take_name(parser, "", &type->name);
}

static int parse_type(struct parser *parser, struct type **ret)
{
	_cleanup_(type_freep) struct type *type = NULL;
	int r;

	if (parser->depth == MAX_NESTING)
		return -EINVAL;
	skip_space(parser);
	if (*parser->at == '(') {
		parser->depth++;
		r = parse_struct(parser, ret);
		parser->depth--;
		return r;
	}
	type = calloc(1, sizeof(*type));
	if (!type)
		return -ENOMEM;
	if (take(parser, "?"))
		type->kind = TYPE_MAYBE;
	else if (take(parser, "[]"))
		type->kind = TYPE_ARRAY;
	else if (take(parser, "[string]"))
		type->kind = TYPE_MAP;
	else
		type->kind = TYPE_NAMED;

	parser->depth++;
	r = type->kind == TYPE_NAMED ? parse_plain_type(parser, type)
				     : parse_type(parser, &type->element);
	parser->depth--;
	if (r == 0)
		*ret = TAKE_PTR(type);
	return r;
}

static int parse_member(struct parser *parser, struct member **ret)
{
	_cleanup_(member_freep) struct member *member = calloc(1, sizeof(*member));
	int r;

	if (!member)
		return -ENOMEM;
	if (take_word(parser, "type"))
		member->kind = MEMBER_TYPE;
	else if (take_word(parser, "method"))
		member->kind = MEMBER_METHOD;
	else if (take_word(parser, "error"))
		member->kind = MEMBER_ERROR;
	else
		return -EINVAL;

	r = take_name(parser, "", &member->name);
	if (r < 0)
		return r;
	r = parse_struct(parser, &member->input);
	if (r < 0)
		return r;
	if (member->kind == MEMBER_METHOD) {
		if (!take(parser, "->"))
			return -EINVAL;
		r = parse_struct(parser, &member->output);
		if (r < 0)
			return r;
	}
	*ret = TAKE_PTR(member);
	return 0;
}

static const struct member *find_member(const struct idl *idl, enum member_kind kind,
					const char *name)
{
	for (const struct member *member = idl->members; member; member = member->next)
		if (member->kind == kind && strcmp(member->name, name) == 0)
			return member;
	return NULL;
}

static bool are_names_defined(const struct idl *idl, const struct type *type)
{
	if (!type)
		return true;
	if (type->kind == TYPE_NAMED && !find_member(idl, MEMBER_TYPE, type->name))
		return false;
	for (const struct field *field = type->fields; field; field = field->next)
		if (!are_names_defined(idl, field->type))
			return false;
	return are_names_defined(idl, type->element);
}

static int parse_interface(struct parser *parser, struct idl *idl)
{
	struct member **tail = &idl->members;
	int r;

	if (!take_word(parser, "interface"))
		return -EINVAL;
	r = take_name(parser, ".-", &idl->name);
	if (r < 0)
		return r;
	for (skip_space(parser); *parser->at; skip_space(parser)) {
		r = parse_member(parser, tail);
		if (r < 0)
			return r;
		tail = &(*tail)->next;
	}
	for (const struct member *member = idl->members; member; member = member->next)
		if (!are_names_defined(idl, member->input) ||
		    !are_names_defined(idl, member->output))
			return -EINVAL;
	return 0;
}

int idl_parse(struct idl **ret, const char *text, unsigned int *ret_line)
{
	_cleanup_(idl_freep) struct idl *idl = calloc(1, sizeof(*idl));
	struct parser parser = { .at = text, .line = 1 };
	int r;

	if (!idl)
		return -ENOMEM;
	r = parse_interface(&parser, idl);
	if (r < 0) {
		if (ret_line)
			*ret_line = parser.line;
		return r;
	}
	*ret = TAKE_PTR(idl);
	return 0;
}

const char *idl_name(const struct idl *idl)
{
	return idl->name;
}

static const char *nth_member(const struct idl *idl, enum member_kind kind, size_t index)
{
	for (const struct member *member = idl->members; member; member = member->next)
		if (member->kind == kind && index-- == 0)
			return member->name;
	return NULL;
}

const char *idl_method(const struct idl *idl, size_t index)
{
	return nth_member(idl, MEMBER_METHOD, index);
}

const char *idl_error(const struct idl *idl, size_t index)
{
	return nth_member(idl, MEMBER_ERROR, index);
}

static int check_struct(const struct idl *idl, const struct type *type, const json_t *value,
			const char **ret_field);

static bool fits(const struct idl *idl, const struct type *type, json_t *value);

static bool is_enum_value(const struct type *type, const json_t *value)
{
	for (const struct field *field = type->fields; field; field = field->next)
		if (json_is_string(value) && strcmp(field->name, json_string_value(value)) == 0)
			return true;
	return false;
}

static bool do_elements_fit(const struct idl *idl, const struct type *element, json_t *value)
{
	const char *key;
	json_t *member;
	size_t i;

	json_array_foreach(value, i, member) if (!fits(idl, element, member)) return false;
	json_object_foreach(value, key, member) if (!fits(idl, element, member)) return false;
	return true;
}

static bool fits(const struct idl *idl, const struct type *type, json_t *value)
{
	const char *field;

	switch (type->kind) {
	case TYPE_BOOL:
		return json_is_boolean(value);
	case TYPE_INT:
		return json_is_integer(value);
	case TYPE_FLOAT:
		return json_is_number(value);
	case TYPE_STRING:
		return json_is_string(value);
	case TYPE_OBJECT:
		return json_is_object(value);
	case TYPE_STRUCT:
		return json_is_object(value) && check_struct(idl, type, value, &field) == 0;
	case TYPE_ENUM:
		return is_enum_value(type, value);
	case TYPE_NAMED:
		return fits(idl, find_member(idl, MEMBER_TYPE, type->name)->input, value);
	case TYPE_ARRAY:
		return json_is_array(value) && do_elements_fit(idl, type->element, value);
	case TYPE_MAP:
		return json_is_object(value) && do_elements_fit(idl, type->element, value);
	case TYPE_MAYBE:
		return json_is_null(value) || fits(idl, type->element, value);
	}
	return false;
}

static const struct field *find_field(const struct type *type, const char *name)
{
	for (const struct field *field = type->fields; field; field = field->next)
		if (strcmp(field->name, name) == 0)
			return field;
	return NULL;
}

static int check_struct(const struct idl *idl, const struct type *type, const json_t *value,
			const char **ret_field)
{
	const char *key;
	json_t *member;

	json_object_foreach((json_t *)value, key, member)
	{
		const struct field *field = find_field(type, key);

		*ret_field = key;
		if (!field)
			return IDL_UNKNOWN;
		if (!fits(idl, field->type, member))
			return IDL_WRONG;
	}
	for (const struct field *field = type->fields; field; field = field->next) {
		*ret_field = field->name;
		if (field->type->kind != TYPE_MAYBE && !json_object_get(value, field->name))
			return IDL_MISSING;
	}
	*ret_field = NULL;
	return 0;
}

int idl_check(const struct idl *idl, const char *name, enum idl_part part, const json_t *parameters,
	      const char **ret_field)
{
	const struct member *member = find_member(
		idl, part == IDL_ERROR ? MEMBER_ERROR : MEMBER_METHOD, name);

	*ret_field = NULL;
	if (!member)
		return IDL_NO_MEMBER;
	return check_struct(idl, part == IDL_OUTPUT ? member->output : member->input, parameters,
			    ret_field);
}
