import java.io.FileInputStream;
import java.security.cert.*;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;

/** Checks the revocation of a certificate as Java's own TLS does: ROOT ISSUING LEAF [CRL]. */
public class CheckRevocation {
    public static void main(String[] args) throws Exception {
        X509Certificate root = read(args[0]), issuing = read(args[1]), leaf = read(args[2]);
        System.out.println(check(root, issuing, leaf, args.length > 3 && args[3].equals("CRL")));
    }

    static X509Certificate read(String path) throws Exception {
        try (FileInputStream in = new FileInputStream(path)) {
            return (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(in);
        }
    }

    static String check(X509Certificate root, X509Certificate issuing, X509Certificate leaf, boolean crl) throws Exception {
        CertPathValidator validator = CertPathValidator.getInstance("PKIX");
        PKIXRevocationChecker checker = (PKIXRevocationChecker) validator.getRevocationChecker();
        EnumSet<PKIXRevocationChecker.Option> options = EnumSet.of(PKIXRevocationChecker.Option.NO_FALLBACK, PKIXRevocationChecker.Option.ONLY_END_ENTITY);
        if (crl) {
            options.add(PKIXRevocationChecker.Option.PREFER_CRLS);
        }
        checker.setOptions(options);
        PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(root, null)));
        parameters.addCertPathChecker(checker);
        try {
            validator.validate(CertificateFactory.getInstance("X.509").generateCertPath(List.of(leaf, issuing)), parameters);
            return "valid";
        } catch (CertPathValidatorException e) {
            if (e.getCause() instanceof CertificateRevokedException r) {
                return "revoked " + r.getRevocationReason();
            }
            return e.toString();
        }
    }
}
