-- Rows: serial_key begins with the first 32 bits of the serial number instead of those
-- of its hash, so that serials that begin with the time, as ours do, are together
-- in the index; the other half stays a hash, for serials with a long common
-- beginning.
UPDATE inventory SET serial_key = (('x' || rpad(left(ltrim(serial, '-'), 8), 8, '0'))::bit(32)::bigint << 32) | ((serial_key >> 32) & 4294967295);
