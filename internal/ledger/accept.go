// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/store"
)

// Ahead reports whether the log, or a checkpoint that it published, has records that the table has not, and which. That is how a
// database looks that was restored from a backup.
func (l *Log) Ahead(ctx context.Context, st store.Store) (lost audit.Restored, ahead bool, err error) {
	_, next, err := read(ctx, st, 0, 0)
	if err != nil {
		return audit.Restored{}, false, err
	}
	l.guard.mu.Lock()
	defer l.guard.mu.Unlock()
	size, root := l.guard.tree.size, l.guard.tree.root()
	if l.guard.anchor.Size > size {
		size, root = l.guard.anchor.Size, l.guard.anchor.Root
	}
	if size <= next {
		return audit.Restored{}, false, nil
	}
	return audit.Restored{From: next, To: size - 1, TreeSize: size, Root: root.String()}, true, nil
}

// Accept carries on from a restored database without cutting the log: in one Update the table's next position becomes the tree's size, the
// event that names the lost range is appended there, and also runs, which revokes whatever may have been used since the backup. seal makes the
// event, of type restore.accepted with the given data, outside of the transaction. Run must not be running.
//
// Codes: log_not_ahead (Conflict: there is nothing to accept), log_moved (Conflict: the table grew meanwhile), log_diverged
// (Conflict: something was written to the restored database, and its last records are not the log's), log_damaged
// (Conflict: the tree itself is shorter than the checkpoint, so that the log, too, must be put back), and what seal and also return.
func (l *Log) Accept(ctx context.Context, st store.Store, seal func(audit.Restored) (audit.Sealed, error), also func(store.Tx) error) (audit.Restored, error) {
	const op = "ledger.Accept"
	lost, ahead, err := l.Ahead(ctx, st)
	if err != nil {
		return lost, err
	}
	if !ahead {
		return lost, fault.New(fault.Conflict, op, "log_not_ahead", "the log is not ahead of the database").WithFix("just start the product")
	}
	if lost.TreeSize > int64(l.size.Load()) {
		return lost, l.damaged("it published a checkpoint of more records than its tree has").
			WithFix("put the log directory back from its copy")
	}
	if _, err := l.same(ctx, st); err != nil {
		return lost, err
	}
	event, err := seal(lost)
	if err != nil {
		return lost, err
	}
	return lost, st.Update(ctx, func(tx store.Tx) error {
		events := tx.Events()
		next, err := events.Next()
		if err != nil {
			return err
		}
		if next != lost.From {
			return fault.New(fault.Conflict, op, "log_moved", "the database grew from %d to %d records meanwhile", lost.From, next).WithFix("stop what writes to it, and try again")
		}
		skipper, ok := events.(audit.Skipper)
		if !ok {
			return fault.New(fault.Internal, op, "internal", "the store cannot skip positions")
		}
		if err := skipper.Skip(lost.TreeSize); err != nil {
			return err
		}
		if err := events.Append(event); err != nil {
			return err
		}
		return also(tx)
	})
}
