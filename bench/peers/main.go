// Go's net/http with what every server here answers; GOMAXPROCS is the number of cores it may use.
// Its ServeMux has no parameters before Go 1.22, so there are no 50 routes.
package main

import (
	"flag"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const burnRounds = 50000

var sink uint64

func burn() {
	x := uint64(1)
	for i := 0; i < burnRounds; i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	if x == 0 {
		sink = x
	}
}

func text(path, body string, work func()) {
	length := strconv.Itoa(len(body))
	http.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if work != nil {
			work()
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Content-Length", length)
		io.WriteString(w, body)
	})
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address")
	flag.Parse()
	const hello = "Hello, World!"
	text("/", hello, nil)
	text("/1k", strings.Repeat("x", 1<<10), nil)
	text("/64k", strings.Repeat("x", 64<<10), nil)
	text("/1m", strings.Repeat("x", 1<<20), nil)
	text("/block", hello, func() { time.Sleep(time.Millisecond) })
	text("/slow", hello, func() { time.Sleep(500 * time.Millisecond) })
	text("/burn", hello, burn)
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
