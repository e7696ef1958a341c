// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * line    = [ NAME "=" ] sum
 * sum     = product { ( "+" | "-" ) product }
 * product = power { ( "*" | "/" ) power }
 * power   = atom [ "^" power ]
 * atom    = NUMBER | NAME [ "(" sum ")" ] | "(" sum ")" | "-" power
 */
#include <math.h>
#include <string.h>

#include "calc.h"

static const char *error;

static double sum(void);

static int accept(char punctuation)
{
	struct token token = lexer_peek();

	if (token.kind != PUNCTUATION || token.text[0] != punctuation)
		return 0;
	lexer_next();
	return 1;
}

static double fail(const char *message)
{
	if (!error)
		error = message;
	return 0;
}

static double parenthesised(void)
{
	double value = sum();

	return accept(')') ? value : fail("a parenthesis is missing");
}

static double power(void);

static double atom(void)
{
	struct token token = lexer_peek();
	double value;

	if (token.kind == NUMBER)
		return lexer_next().number;
	if (token.kind == NAME) {
		lexer_next();
		if (accept('(')) {
			double argument = parenthesised();

			return call_function(token.text, argument, &value) ?
				       value :
				       fail("there is no such function");
		}
		return get_variable(token.text, &value) ? value :
							  fail("there is no such variable");
	}
	if (accept('('))
		return parenthesised();
	if (accept('-'))
		return -power();
	return fail("a number is missing");
}

static double power(void)
{
	double base = atom();

	return accept('^') ? pow(base, power()) : base;
}

static double product(void)
{
	double value = power();

	for (;;) {
		if (accept('*'))
			value *= power();
		else if (accept('/'))
			value /= power();
		else
			return value;
	}
}

static double sum(void)
{
	double value = product();

	for (;;) {
		if (accept('+'))
			value += product();
		else if (accept('-'))
			value -= product();
		else
			return value;
	}
}

const char *parse_line(const char *line, double *value)
{
	const char *equals = strchr(line, '=');
	char name[32] = "";

	error = NULL;
	lexer_begin(line);
	if (equals) {
		struct token token = lexer_next();

		if (token.kind != NAME || !accept('='))
			return "only a name can be set";
		strcpy(name, token.text);
	}
	*value = sum();
	if (!error && lexer_peek().kind != END)
		error = "there is more than one expression";
	if (!error && name[0] && !set_variable(name, *value))
		error = "there are too many variables";
	return error;
}
