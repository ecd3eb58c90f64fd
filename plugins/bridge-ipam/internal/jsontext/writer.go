// Package jsontext writes and reads the JSON of one short process by hand: encoding/json looks at every type by
// reflection first, and for a few hundred bytes that is nearly all of its work. What is written is what encoding/json
// writes, byte for byte; what is read is left to it wherever anything is out of the ordinary. Pure.
package jsontext

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Writer appends to one JSON text. The zero value is an empty text, which is going to be all on one line.
type Writer struct {
	Indent string // not empty: members and elements stand on lines of their own, as json.Indent puts them

	text  []byte
	depth int
}

// Bytes is the text so far.
func (w *Writer) Bytes() []byte { return w.text }

// Object writes an object, whose members f writes.
func (w *Writer) Object(f func()) { w.nest('{', '}', f) }

// Array writes an array, whose elements f writes.
func (w *Writer) Array(f func()) { w.nest('[', ']', f) }

func (w *Writer) nest(begin, end byte, f func()) {
	w.next()
	w.text = append(w.text, begin)
	w.depth++
	f()
	w.depth--
	if w.text[len(w.text)-1] != begin {
		w.line()
	}
	w.text = append(w.text, end)
}

// next separates from what stands before.
func (w *Writer) next() {
	if len(w.text) == 0 {
		return
	}
	switch w.text[len(w.text)-1] {
	case ':':
		if w.Indent != "" {
			w.text = append(w.text, ' ')
		}
		return
	case '{', '[':
	default:
		w.text = append(w.text, ',')
	}
	w.line()
}

// line begins a new one.
func (w *Writer) line() {
	if w.Indent == "" {
		return
	}
	w.text = append(w.text, '\n')
	for range w.depth {
		w.text = append(w.text, w.Indent...)
	}
}

// Key writes the name of a member; its value comes next.
func (w *Writer) Key(name string) *Writer {
	w.String(name)
	w.text = append(w.text, ':')
	return w
}

// String writes a string.
func (w *Writer) String(s string) {
	w.next()
	if !isPlain(s) {
		quoted, _ := json.Marshal(s) // of a string: never fails
		w.text = append(w.text, quoted...)
		return
	}
	w.text = append(append(append(w.text, '"'), s...), '"')
}

// OmitEmpty writes a member, or nothing for an empty string.
func (w *Writer) OmitEmpty(key, value string) {
	if value != "" {
		w.Key(key).String(value)
	}
}

// Text writes what shows itself as a string, like an address.
func (w *Writer) Text(s fmt.Stringer) { w.String(s.String()) }

// Int writes a number.
func (w *Writer) Int(n int64) {
	w.next()
	w.text = strconv.AppendInt(w.text, n, 10)
}

// Uint writes a number.
func (w *Writer) Uint(n uint64) {
	w.next()
	w.text = strconv.AppendUint(w.text, n, 10)
}

// Bool writes true or false.
func (w *Writer) Bool(b bool) {
	w.next()
	w.text = strconv.AppendBool(w.text, b)
}

// Null writes null.
func (w *Writer) Null() {
	w.next()
	w.text = append(w.text, "null"...)
}

// isPlain says whether a string stands in JSON as it is.
func isPlain(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}
