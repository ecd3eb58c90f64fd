package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

const pidFile = "/var/run/nginx.pid"

// nginx serves on port 80, or on the port in NGINX_PORT. It shows itself as nginx does: a pid file, and a process
// called "nginx: master process".
func nginx([]string) error {
	const title = "nginx: master process nginx -g daemon off;"
	if os.Args[0] != title {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		return syscall.Exec(self, []string{title}, os.Environ())
	}
	port := os.Getenv("NGINX_PORT")
	if port == "" {
		port = "80"
	}
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return err
	}
	return serve(l, "<title>Welcome to nginx!</title>\n")
}

// httpd serves on port 80 and says so on its standard error, where the Apache image logs too.
func httpd([]string) error {
	l, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "[core:notice] AH00094: Command line: 'httpd -D FOREGROUND'")
	return serve(l, "<html><body><h1>It works!</h1></body></html>\n")
}

// serve answers every request with the page until the process is told to end.
func serve(l net.Listener, page string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		<-stop
		os.Exit(0)
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go answer(c, page)
	}
}

// answer reads one request to the end of its header. net/http would be four times the program.
func answer(c net.Conn, page string) {
	defer func() { _ = c.Close() }()
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if strings.TrimSpace(line) == "" {
			break
		}
	}
	_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(page), page)
}
