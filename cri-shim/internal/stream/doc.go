// Package stream is the streaming server of the CRI: it hands out URLs for commands, attachments and forwarded
// ports, and serves whoever comes with one, over SPDY/3.1 or WebSocket. It owns the tokens and the connections
// of clients; what happens inside of a container is its Runtime's.
//
// Crash story: nothing is kept. Tokens and connections die with the process, and with a connection the command
// that it has run. No container is touched.
package stream
