// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"sync"
	"time"
)

// How many refusals go on record in a minute. Whoever knows a client's name, which is no secret, can cause one; they must not
// be able to fill the record, and neither must a client that was stopped. What is left out is counted in the next one.
const (
	strangersPerMinute = 60
	clientsPerMinute   = 600
)

type limiter struct {
	most int

	mu     sync.Mutex
	minute int64
	used   int
	left   int64
}

// take reports whether one more may be recorded now, and how many were left out since the last that was.
func (l *limiter) take(now time.Time) (leftOut int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := now.Unix() / 60; m != l.minute {
		l.minute, l.used = m, 0
	}
	if l.used >= l.most {
		l.left++
		return 0, false
	}
	l.used++
	leftOut, l.left = l.left, 0
	return leftOut, true
}
