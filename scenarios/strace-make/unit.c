int unit(int value)
{
	return value + 1;
}
