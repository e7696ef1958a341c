break count
run
continue
print counts
finish
stepi
delete
continue
