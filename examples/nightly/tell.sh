#!/usr/bin/env bash
# Mail or post what the last run came to, after run.sh. covct itself reaches no network: sendmail and curl do.
# Research use only. Not a medical device.
#
#   COVCT_OUT=/srv/ct/out COVCT_MAIL_TO=team@hospital.example examples/nightly/tell.sh [OPTION OF covct digest ...]
#
# Settings from the environment:
#   COVCT_OUT        output tree (required)
#   COVCT_MAIL_TO    recipients, separated by commas; empty: no mail
#   COVCT_MAIL_FROM  sender                                                     what the mailer takes
#   COVCT_SENDMAIL   what reads a mail with its recipients from standard input  sendmail -t
#   COVCT_WEBHOOK    address that JSON is posted to; empty: nothing is posted
set -euo pipefail

if [ -z "${COVCT_OUT:-}" ]; then
    echo "covct tell: set COVCT_OUT to the folder with the results" >&2
    exit 2
fi
if [ -z "${COVCT_MAIL_TO:-}${COVCT_WEBHOOK:-}" ]; then
    echo "covct tell: nobody to tell: set COVCT_MAIL_TO or COVCT_WEBHOOK" >&2
    exit 2
fi

status=0
if [ -n "${COVCT_MAIL_TO:-}" ]; then
    mail=$(covct digest "$COVCT_OUT" --format mail "$@")
    read -r -a mailer <<<"${COVCT_SENDMAIL:-sendmail -t}"
    {
        printf 'To: %s\n' "$COVCT_MAIL_TO"
        [ -z "${COVCT_MAIL_FROM:-}" ] || printf 'From: %s\n' "$COVCT_MAIL_FROM"
        printf '%s\n' "$mail"
    } | "${mailer[@]}" || { status=1; echo "covct tell: the mail was not sent" >&2; }
fi
if [ -n "${COVCT_WEBHOOK:-}" ]; then
    covct digest "$COVCT_OUT" --format json "$@" |
        curl --silent --show-error --fail --max-time 60 --header 'Content-Type: application/json' \
            --data-binary @- --output /dev/null -- "$COVCT_WEBHOOK" ||
        { status=1; echo "covct tell: nothing was posted" >&2; }
fi
exit "$status"
