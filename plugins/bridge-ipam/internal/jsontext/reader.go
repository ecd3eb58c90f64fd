package jsontext

import (
	"slices"
	"strconv"
	"strings"
)

// Reader reads what is common in JSON. Its methods say whether they could: whatever is out of the ordinary, be it wrong
// or right (escapes, letters beyond ASCII, null, keys in another case or twice), is for encoding/json, from the beginning.
type Reader struct {
	text []byte
	at   int
	deep int
}

// maxDeep bounds how deep values are nested, in levels.
const maxDeep = 32

// Read reads one value by f, and nothing may follow it.
func Read(text []byte, f func(*Reader) bool) bool {
	r := &Reader{text: text}
	if !f(r) {
		return false
	}
	r.space()
	return r.at == len(r.text)
}

// Member is a key that is looked for. Without Read it is known, and rare enough to be left to encoding/json.
type Member struct {
	Key  string
	Read func(*Reader) bool
}

// Object reads an object. Keys that no member has are passed over.
func (r *Reader) Object(members ...Member) bool {
	seen := make([]bool, len(members))
	return r.list('{', '}', func() bool {
		key, ok := r.Text()
		if !ok || !r.take(':') {
			return false
		}
		i := slices.IndexFunc(members, func(m Member) bool { return m.Key == key })
		if i < 0 {
			alike := func(m Member) bool { return strings.EqualFold(m.Key, key) }
			return !slices.ContainsFunc(members, alike) && r.pass()
		}
		if seen[i] || members[i].Read == nil {
			return false
		}
		seen[i] = true
		return members[i].Read(r)
	})
}

// Array reads an array, each element by f.
func (r *Reader) Array(f func() bool) bool { return r.list('[', ']', f) }

func (r *Reader) list(begin, end byte, element func() bool) bool {
	if r.deep++; r.deep > maxDeep || !r.take(begin) {
		return false
	}
	for first := true; !r.take(end); first = false {
		if !first && !r.take(',') || !element() {
			return false
		}
	}
	r.deep--
	return true
}

// Text reads a string.
func (r *Reader) Text() (string, bool) {
	if !r.take('"') {
		return "", false
	}
	for i, c := range r.text[r.at:] {
		switch {
		case c == '"':
			s := string(r.text[r.at : r.at+i])
			r.at += i + 1
			return s, true
		case c < ' ' || c > '~' || c == '\\':
			return "", false
		}
	}
	return "", false
}

// Bool reads true or false.
func (r *Reader) Bool() (value, ok bool) {
	if r.word("true") {
		return true, true
	}
	return false, r.word("false")
}

// Int reads a whole number. What else may stand in a number, like 1e3, is then not what has to follow it.
func (r *Reader) Int() (int, bool) {
	r.space()
	n := len(r.text) - r.at
	if i := slices.IndexFunc(r.text[r.at:], func(c byte) bool { return c != '-' && (c < '0' || c > '9') }); i >= 0 {
		n = i
	}
	word := string(r.text[r.at : r.at+n])
	r.at += n
	value, err := strconv.Atoi(word)
	return value, err == nil && strconv.Itoa(value) == word
}

// Raw reads any value and returns it as it stands.
func (r *Reader) Raw() ([]byte, bool) {
	r.space()
	begin := r.at
	ok := r.pass()
	return r.text[begin:r.at], ok
}

// pass reads any value.
func (r *Reader) pass() (ok bool) {
	r.space()
	switch {
	case r.sees('"'):
		_, ok = r.Text()
	case r.sees('{'):
		ok = r.Object()
	case r.sees('['):
		ok = r.Array(r.pass)
	case r.sees('t') || r.sees('f'):
		_, ok = r.Bool()
	case r.sees('n'):
		ok = r.word("null")
	default:
		_, ok = r.Int()
	}
	return ok
}

func (r *Reader) word(s string) bool {
	r.space()
	if !strings.HasPrefix(string(r.text[r.at:min(r.at+len(s), len(r.text))]), s) {
		return false
	}
	r.at += len(s)
	return true
}

func (r *Reader) space() {
	for r.at < len(r.text) && strings.IndexByte(" \t\r\n", r.text[r.at]) >= 0 {
		r.at++
	}
}

func (r *Reader) sees(c byte) bool { return r.at < len(r.text) && r.text[r.at] == c }

// take passes over a byte that has a meaning by itself, if it is next.
func (r *Reader) take(c byte) bool {
	r.space()
	if !r.sees(c) {
		return false
	}
	r.at++
	return true
}
