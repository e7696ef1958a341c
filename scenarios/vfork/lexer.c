// SPDX-License-Identifier: Apache-2.0 OR MIT
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "calc.h"

static const char *at;
static struct token ahead;
static int have;

void lexer_begin(const char *line)
{
	at = line;
	have = 0;
}

static struct token scan(void)
{
	struct token token = { .kind = END };
	size_t length = 0;

	while (isspace((unsigned char)*at))
		at++;
	if (!*at)
		return token;
	if (isdigit((unsigned char)*at) || *at == '.') {
		char *end;

		token.kind = NUMBER;
		token.number = strtod(at, &end);
		at = end > at ? end : at + 1;
		return token;
	}
	if (isalpha((unsigned char)*at)) {
		token.kind = NAME;
		while (isalnum((unsigned char)*at) && length + 1 < sizeof(token.text))
			token.text[length++] = *at++;
		return token;
	}
	token.kind = PUNCTUATION;
	token.text[0] = *at++;
	return token;
}

struct token lexer_peek(void)
{
	if (!have) {
		ahead = scan();
		have = 1;
	}
	return ahead;
}

struct token lexer_next(void)
{
	struct token token = lexer_peek();

	have = 0;
	return token;
}
