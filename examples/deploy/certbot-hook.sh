#!/bin/sh
# /etc/letsencrypt/renewal-hooks/deploy/tunnelkit: after each renewal, and once by hand:
# RENEWED_LINEAGE=/etc/letsencrypt/live/tunnel.example.com sh certbot-hook.sh
set -eu
for name in fullchain.pem privkey.pem; do
    # Beside the old file and then in its place: the server never reads half of one.
    install -o tunnelkit -g tunnelkit -m 0400 "$RENEWED_LINEAGE/$name" "/etc/tunnelkit/$name.new"
    mv "/etc/tunnelkit/$name.new" "/etc/tunnelkit/$name"
done
systemctl try-reload-or-restart tunnelkit-server.service
