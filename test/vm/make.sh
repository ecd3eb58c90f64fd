#!/bin/sh
# Stands for make in the virtual machine: what tests ask it to build was built and handed in by the host.
for word; do
	case $word in build | tools | newest-runc | --no-print-directory | -C | /*) ;; *) echo "no make $word in the virtual machine" >&2; exit 1 ;; esac
done
