package main

import "testing"

func TestSocketDir(t *testing.T) {
	for _, c := range []struct{ params, want string }{
		{"", ""},
		{"\x0a\x02id", ""},
		{"\x0a\x02id\x4a\x06/run/s", "/run/s"},
		{"\x4a\x06/run/s\x18\x01", "/run/s"},
		// Cut off, and not a message at all.
		{"\x0a\x02id\x4a\x06/ru", ""},
		{"{\"opts\": 1}", ""},
	} {
		if got := socketDir([]byte(c.params)); got != c.want {
			t.Errorf("socketDir(%q) is %q, want %q", c.params, got, c.want)
		}
	}
}
