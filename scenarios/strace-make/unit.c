// SPDX-License-Identifier: GPL-2.0-only
int unit(int value)
{
	return value + 1;
}
