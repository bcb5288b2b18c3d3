/* SPDX-License-Identifier: MIT */
/* How the guest is treated: UFD_SETTINGS as options of libufd. */
#pragma once

struct ufd_client_opts;

/* @text: FIELD=VALUE by `,`, as Settings of io.ufd.guest names them; or NULL. Return: 0, or -1 with @ret_error. */
int settings_parse(struct ufd_client_opts *opts, const char *text, const char **ret_error);
