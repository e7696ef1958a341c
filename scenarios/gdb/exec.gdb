catch exec
run exec
info inferiors
break work
continue
bt full
delete
continue
