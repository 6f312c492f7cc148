// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"testing"

	"chaperone/internal/store"
	"chaperone/internal/store/storetest"
)

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t) })
}
