# SPDX-License-Identifier: MIT
# Each line of a text becomes a C string literal of itself.
s/\\/\\\\/g
s/"/\\"/g
s/^/"/
s/$/\\n"/
