package images

import "runtime"

// arch is the architecture in an image's configuration: that of the busybox we take from this host.
const arch = runtime.GOARCH
