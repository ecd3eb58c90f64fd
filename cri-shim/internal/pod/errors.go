package pod

import "errors"

// ErrStart is the class of a start that failed because of what was to be started: no such command,
// not executable, no such working directory. The container ends as Exited with reason StartError.
var ErrStart = errors.New("container cannot start")
