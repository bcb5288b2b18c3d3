/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A snapshot that Cloud Hypervisor sends (`send-migration`): a dialect that is a conversation, for
 * `ufdctl handoff create --dialect cloud-hypervisor --source FOLDER`.
 *
 * Theory of operation: its memory comes as files that it maps shared, one fd a mapping, or as bytes. Files
 * are copied when Complete is asked for: the machine stands still then, and will until that is answered.
 * It is answered when all of it is on disk, for Cloud Hypervisor ends with the answer. Whatever else ends
 * the connection leaves nothing behind: what is no whole snapshot is none.
 */
#pragma once

#include "handoff/handoff.h"

extern const struct handoff_speaker offload_receiver;
