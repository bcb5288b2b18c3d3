/* SPDX-License-Identifier: MIT */
/*
 * Varlink's interface language: parsed, and used to check what a message carries.
 *
 * Context of all: any; an interface is not changed after idl_parse().
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

struct idl;

/**
 * idl_parse() - an interface file
 * @ret_line: where it is wrong, from 1; may be NULL
 *
 * Knows all of the language; every name of a type must be defined in the same file.
 * Return: 0, -EINVAL with @ret_line set, -ENOMEM.
 */
int idl_parse(struct idl **ret, const char *text, unsigned int *ret_line);
struct idl *idl_free(struct idl *idl);
DEFINE_CLEANUP(struct idl, idl_free)

/* io.ufd.guest */
const char *idl_name(const struct idl *idl);

/* The methods in the file's order; NULL past the last. Short names: Attach. */
const char *idl_method(const struct idl *idl, size_t index);

/* The errors, likewise. */
const char *idl_error(const struct idl *idl, size_t index);

/* Whose fields idl_check() compares with. */
enum idl_part {
	IDL_INPUT,
	IDL_OUTPUT,
	IDL_ERROR,
};

enum idl_outcome {
	_IDL_FITS,
	IDL_NO_MEMBER, /* the interface has no method (or error) of this name */
	IDL_UNKNOWN,   /* a field that the interface does not list */
	IDL_MISSING,   /* a field that is not nullable is not there */
	IDL_WRONG,     /* a field of another type */
};

/**
 * idl_check() - does an object have exactly the fields that the interface says
 * @member:     short name of a method or an error
 * @parameters: NULL stands for an object without fields
 * @ret_field:  the outermost field at fault (part of @parameters or of the interface); NULL if none
 * is
 *
 * An int must be written as one: 1.0 is wrong. Nesting is bounded by whoever parsed the JSON.
 * Return: 0 or enum idl_outcome.
 */
int idl_check(const struct idl *idl, const char *member, enum idl_part part,
	      const json_t *parameters, const char **ret_field);
